// SPDX-License-Identifier: Apache-2.0
#pragma once

// All objects of a program, or of a shared library, are compiled for the same instruction sets.
// Inline functions are compiled in each object, and the linker keeps any one of the copies: one
// with AVX-512 ends a program on a processor without it, one by -ffast-math takes a NaN for a
// number. So each object says here what it was compiled with, and objects that differ do not link:
//
//   multiple definition of `ssm_objects_differ_in_compiler_flags'
//
// where the linker names the two objects and, as sections, their flags. Objects of nvcc are not
// asked: their code is in a shared library of its own. Nor are systems that have neither ELF nor
// MSVC's linker. SSM_ALLOW_MIXED_FLAGS turns it off.

#if !defined(SSM_ALLOW_MIXED_FLAGS) && !defined(__CUDACC__)

#if defined(__AVX512F__)
#define SSM_FLAG_AVX512F ".avx512f"
#else
#define SSM_FLAG_AVX512F
#endif
#if defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define SSM_FLAG_AVX512 ".avx512bw-dq-vl"
#else
#define SSM_FLAG_AVX512
#endif
#if defined(__AVX512BF16__)
#define SSM_FLAG_AVX512BF16 ".avx512bf16"
#else
#define SSM_FLAG_AVX512BF16
#endif
#if defined(__AVX512FP16__)
#define SSM_FLAG_AVX512FP16 ".avx512fp16"
#else
#define SSM_FLAG_AVX512FP16
#endif
#if defined(__AVX512VNNI__)
#define SSM_FLAG_AVX512VNNI ".avx512vnni"
#else
#define SSM_FLAG_AVX512VNNI
#endif
#if defined(__AVX2__)
#define SSM_FLAG_AVX2 ".avx2"
#else
#define SSM_FLAG_AVX2
#endif
#if defined(__FMA__)
#define SSM_FLAG_FMA ".fma"
#else
#define SSM_FLAG_FMA
#endif
#if defined(__F16C__)
#define SSM_FLAG_F16C ".f16c"
#else
#define SSM_FLAG_F16C
#endif
#if defined(__AVX__)
#define SSM_FLAG_AVX ".avx"
#else
#define SSM_FLAG_AVX
#endif
#if defined(__SSE4_2__)
#define SSM_FLAG_SSE42 ".sse4.2"
#else
#define SSM_FLAG_SSE42
#endif
#if defined(__SSE4_1__)
#define SSM_FLAG_SSE41 ".sse4.1"
#else
#define SSM_FLAG_SSE41
#endif
#if defined(__SSSE3__)
#define SSM_FLAG_SSSE3 ".ssse3"
#else
#define SSM_FLAG_SSSE3
#endif
#if defined(__ARM_FEATURE_SVE)
#define SSM_FLAG_SVE ".sve"
#else
#define SSM_FLAG_SVE
#endif
#if defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC)
#define SSM_FLAG_FP16 ".fp16"
#else
#define SSM_FLAG_FP16
#endif
#if defined(__ARM_FEATURE_BF16)
#define SSM_FLAG_BF16 ".bf16"
#else
#define SSM_FLAG_BF16
#endif
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#define SSM_FLAG_FAST_MATH ".fast-math"
#else
#define SSM_FLAG_FAST_MATH
#endif
#if defined(_GLIBCXX_DEBUG)
#define SSM_FLAG_DEBUG ".debug"  // other layouts of std::vector and std::string
#else
#define SSM_FLAG_DEBUG
#endif
#define SSM_FLAGS                                                                                  \
  "ssm_flags" SSM_FLAG_SSSE3 SSM_FLAG_SSE41 SSM_FLAG_SSE42 SSM_FLAG_AVX SSM_FLAG_F16C SSM_FLAG_FMA \
      SSM_FLAG_AVX2 SSM_FLAG_AVX512F SSM_FLAG_AVX512 SSM_FLAG_AVX512VNNI SSM_FLAG_AVX512BF16       \
          SSM_FLAG_AVX512FP16 SSM_FLAG_SVE SSM_FLAG_FP16 SSM_FLAG_BF16 SSM_FLAG_FAST_MATH          \
              SSM_FLAG_DEBUG

#if defined(__ELF__)
// A group of sections that is named for the flags: the linker keeps one of each name. All of them
// define the same symbol, which there may be only one of. Link-time optimization brings the objects
// into one text for the assembler, where the conditions say the same.
namespace ssm::detail {
[[gnu::used]] static void compiled_with_flags() {
  asm(".ifndef \"" SSM_FLAGS
      "\"\n"
      ".ifdef ssm_objects_differ_in_compiler_flags\n"
      ".error \"ssm_objects_differ_in_compiler_flags: " SSM_FLAGS
      " and others\"\n"
      ".endif\n"
      ".pushsection \".rodata." SSM_FLAGS "\",\"aG\",%progbits,\"" SSM_FLAGS
      "\",comdat\n"
      "\"" SSM_FLAGS
      "\":\n"
      ".globl ssm_objects_differ_in_compiler_flags\n"
      ".hidden ssm_objects_differ_in_compiler_flags\n"
      "ssm_objects_differ_in_compiler_flags:\n"
      ".byte 0\n"
      ".popsection\n"
      ".endif\n");
}
}  // namespace ssm::detail
#elif defined(_MSC_VER)
#pragma detect_mismatch("ssm_objects_differ_in_compiler_flags", SSM_FLAGS)
#endif

#undef SSM_FLAG_SSSE3
#undef SSM_FLAG_SSE41
#undef SSM_FLAG_SSE42
#undef SSM_FLAG_AVX
#undef SSM_FLAG_F16C
#undef SSM_FLAG_FMA
#undef SSM_FLAG_AVX2
#undef SSM_FLAG_AVX512F
#undef SSM_FLAG_AVX512
#undef SSM_FLAG_AVX512VNNI
#undef SSM_FLAG_AVX512BF16
#undef SSM_FLAG_AVX512FP16
#undef SSM_FLAG_SVE
#undef SSM_FLAG_FP16
#undef SSM_FLAG_BF16
#undef SSM_FLAG_FAST_MATH
#undef SSM_FLAG_DEBUG
#undef SSM_FLAGS

#endif
