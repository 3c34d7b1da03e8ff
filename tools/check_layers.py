#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the direction of the #include graph under include/ssm, of the one between the folders of cuda, and that of api.

    core <- op <- backend/composed <- backend/{reference, cpu, cuda}
    core <- op <- layer <- model <- train
    core, layer <- io <- family <- language_model <- evaluate; model, train <- family
    core, model, io, train <- long_range                   which no other folder includes
    core, io <- tokenizer                            which no other folder includes
    platform.hpp <- {io, backend/cpu}                  all calls of POSIX, but for connections in parallel/socket.hpp
    ssm.hpp reaches every header of core, op, layer, model and train
    layer, io, backend/reference <- laws             which no other folder includes
    device <- kernel <- {convolution <- scan, matmul, attention, rows}     in cuda, each on core, op, backend/cuda
    core, op, layer, model, io, language_model.hpp <- api     a backend in backends.hpp alone; api.h is C by itself

What a header takes from namespace std, it or a header of ours that it includes includes: what compiles with one standard
library compiles with the others.

usage: check_layers.py [--self-test | INCLUDE_DIR]     cuda and api are looked for beside it
"""

import re
import sys
import tempfile
from pathlib import Path

COMPOSED, REFERENCE, CPU, CUDA = "backend/composed", "backend/reference", "backend/cpu", "backend/cuda"
CORE_OP = {"core", "op"}
ABOVE = CORE_OP | {"layer", "model", "train", "io", "family", "language_model", "language_model.hpp"}
MAY_INCLUDE = {
    "core": {"core"},
    "op": CORE_OP,
    COMPOSED: CORE_OP | {COMPOSED},  # primitives made of other primitives, on any backend
    REFERENCE: CORE_OP | {COMPOSED, REFERENCE},
    CPU: CORE_OP | {COMPOSED, REFERENCE, CPU, "platform.hpp"},
    CUDA: CORE_OP | {COMPOSED, REFERENCE, CUDA},
    "parallel": CORE_OP | {"parallel"},
    "layer": CORE_OP | {"layer"},
    "model": CORE_OP | {"layer", "model"},
    "train": CORE_OP | {"layer", "model", "train", "io"},
    "io": CORE_OP | {"layer", "model", "io", "platform.hpp"},
    "tokenizer": {"core", "io", "tokenizer"},
    "family": CORE_OP | {"layer", "model", "train", "io", "family"},
    "laws": CORE_OP | {"layer", "io", "parallel", REFERENCE, "laws"},  # Reference is the oracle where none other is named
    "language_model": ABOVE | {CUDA},
    "language_model.hpp": ABOVE,
    "evaluate": ABOVE | {"evaluate"},
    "long_range": CORE_OP | {"layer", "model", "train", "io", "long_range"},
    "ssm.hpp": CORE_OP | {"layer", "model", "train", "version.hpp"},
    "version.hpp": set(),
    "require_cxx20.hpp": set(),
    "one_set_of_flags.hpp": set(),
    "platform.hpp": set(),
}
EVERYWHERE = {"require_cxx20.hpp", "one_set_of_flags.hpp"}  # the compiler is asked before anything else is read
WHOLE = {"core", "op", "layer", "model", "train"}  # what ssm.hpp holds
STANDARD = re.compile(r"[a-z_]+")  # <vector>, <cmath>; neither <unistd.h> nor <Eigen/Core>
OTHERS = {
    CPU: re.compile(r"xsimd/.+|\w+intrin\.h"),
    "io": re.compile(r"nlohmann/.+"),
    "platform.hpp": re.compile(r"(errno|fcntl|poll|pthread|sched|signal|time|unistd|sys/\w+)\.h|The Cpu backend .*"),
    "tokenizer": re.compile(r"(utf8proc|pcre2)\.h"),
    "parallel": re.compile(r"mpi\.h|netdb\.h|netinet/in\.h|poll\.h|sys/(socket|time)\.h|unistd\.h"),
    "laws": re.compile(r"doctest/doctest\.h|mm_malloc\.h"),
    "require_cxx20.hpp": re.compile(r"ssm (needs|reports) .*"),  # a sentence, not a file
}
OF_LIBRARY = {  # headers that a component of their own holds: nothing else may need these libraries
    "_eigen.hpp": re.compile(r"(unsupported/)?Eigen/.+"),
    "_fftw.hpp": re.compile(r"fftw3\.h"),
    "long_range/png.hpp": re.compile(r"png\.h"),
}
NO_CONDITIONALS = {"core", "op", "layer"}
MAY_ASK_FOR_COMPILER = {"ssm/core/word_vector.hpp"}
IN_CUDA = {"device": {"device"}, "kernel": {"device", "kernel"}}
IN_CUDA |= {folder: {"device", "kernel", folder} for folder in ("convolution", "matmul", "attention", "rows")}
IN_CUDA["scan"] = IN_CUDA["convolution"] | {"scan"}
IN_API = CORE_OP | {"layer", "model", "io", "language_model.hpp", "version.hpp"}
OF_C_HEADER = {"stddef.h", "stdint.h"}

# Where the standard has its names; what is in several headers, such as size_t, in any of them.
STD_NAMES = {
    "any": "any any_cast",
    "algorithm": "adjacent_find any_of clamp copy_n count count_if equal fill fill_n find find_if make_heap max max_element min "
                 "nth_element partial_sort partition pop_heap push_heap replace sort stable_sort transform unique all_of none_of "
                 "copy reverse rotate min_element lower_bound upper_bound swap_ranges minmax remove_if for_each ranges",
    "array": "array to_array",
    "atomic": "atomic",
    "bit": "bit_cast bit_ceil endian countl_zero countr_zero popcount has_single_bit bit_width",
    "bitset": "bitset",
    "charconv": "from_chars to_chars",
    "chrono": "chrono",
    "cmath": "abs ceil copysign cos erf exp exp2 expm1 floor hypot isfinite isinf isnan ldexp llround log log1p log2 nearbyint "
             "nextafter pow sin sqrt tanh round lround fmod trunc",
    "complex": "complex norm",
    "concepts": "convertible_to floating_point integral movable same_as signed_integral unsigned_integral derived_from invocable "
                "constructible_from copyable",
    "condition_variable": "condition_variable",
    "cstddef": "byte nullptr_t ptrdiff_t size_t to_integer max_align_t",
    "cstdint": "int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t uintptr_t intptr_t",
    "cstdio": "FILE fclose fflush fgets fopen fputc fputs fread fscanf fseek fwrite printf size_t snprintf",
    "cstdlib": "abs aligned_alloc calloc free getenv malloc size_t strtod strtol realloc",
    "cstring": "memchr memcmp memcpy memmove memset size_t strchr strcmp strcspn strerror strlen strncmp strstr",
    "deque": "deque",
    "exception": "current_exception exception exception_ptr rethrow_exception terminate uncaught_exceptions",
    "filesystem": "filesystem",
    "fstream": "ifstream ofstream",
    "functional": "equal_to function less greater hash invoke",
    "initializer_list": "initializer_list",
    "iomanip": "setprecision setw",
    "iostream": "cerr cin clog cout",
    "iterator": "default_sentinel default_sentinel_t input_iterator_tag make_move_iterator back_inserter next prev distance "
                "istreambuf_iterator forward_iterator_tag random_access_iterator_tag",
    "limits": "numeric_limits",
    "locale": "locale",
    "map": "map multimap",
    "memory": "make_shared make_unique shared_ptr unique_ptr weak_ptr addressof",
    "mutex": "lock_guard mutex once_flag call_once scoped_lock unique_lock",
    "new": "align_val_t bad_alloc nothrow nothrow_t",
    "numbers": "numbers",
    "numeric": "gcd iota accumulate lcm reduce",
    "optional": "nullopt nullopt_t optional",
    "ostream": "endl flush ostream",
    "queue": "priority_queue queue",
    "random": "random_device mt19937",
    "set": "set multiset",
    "span": "as_bytes as_writable_bytes span dynamic_extent",
    "sstream": "istringstream ostringstream stringstream",
    "stdexcept": "invalid_argument logic_error out_of_range runtime_error",
    "string": "erase erase_if getline stod stoi stol stoll string to_string",
    "string_view": "string_view",
    "system_error": "errc error_code generic_category system_error",
    "thread": "jthread this_thread thread",
    "tuple": "apply get ignore make_tuple tie tuple tuple_cat tuple_element_t tuple_size_v forward_as_tuple",
    "type_traits": "common_type_t conditional_t decay_t enable_if_t false_type integral_constant is_base_of_v is_const_v "
                   "is_constructible_v is_convertible_v is_default_constructible_v is_empty_v is_enum_v is_floating_point_v "
                   "is_integral_v is_invocable_v is_lvalue_reference_v is_member_object_pointer_v is_null_pointer_v is_pointer_v "
                   "is_same_v is_signed_v is_trivially_copyable_v is_trivially_default_constructible_v is_unsigned_v is_void_v "
                   "make_unsigned_t remove_const_t remove_cv_t remove_cvref_t remove_pointer_t remove_reference_t true_type "
                   "type_identity type_identity_t underlying_type_t is_constant_evaluated invoke_result_t is_nothrow_move_constructible_v",
    "unordered_map": "unordered_map",
    "unordered_set": "unordered_set",
    "utility": "as_const cmp_less declval exchange forward get in_place_index in_place_type in_range index_sequence "
               "index_sequence_for integer_sequence make_index_sequence make_integer_sequence move pair swap to_underlying "
               "unreachable",
    "variant": "get get_if holds_alternative monostate variant variant_alternative_t variant_size_v visit",
    "vector": "erase erase_if vector",
}
STD_HEADERS = {}
for std_header, names in STD_NAMES.items():
    for std_name in names.split():
        STD_HEADERS.setdefault(std_name, set()).add(std_header)
# Names that come with others by the standard's own word.
for std_name in ("get", "size_t", "byte", "begin", "end", "swap", "nullptr_t", "ptrdiff_t"):
    STD_HEADERS.setdefault(std_name, set()).update(
        {"array", "cstddef", "map", "span", "string", "string_view", "tuple", "utility", "variant", "vector"})
STD_HEADERS["ranges"] |= {"ranges"}
STD_NAME = re.compile(r"\bstd::([A-Za-z_]\w*)")
OTHER_NAMES = {"xsimd/xsimd.hpp": re.compile(r"\bxsimd::"), "nlohmann/json.hpp": re.compile(r"\bnlohmann::")}
COMMENT_OR_STRING = re.compile(r'//[^\n]*|"(?:[^"\\\n]|\\.)*"')

INCLUDE = re.compile(r'\s*#\s*include\s*(?:<([^>]+)>|"([^"]+)")')
CONDITIONAL = re.compile(r"\s*#\s*(if|ifdef|ifndef|elif|else)\b")


def area_of(path):
    """The key of MAY_INCLUDE for a path relative to ssm/, or None."""
    if "/" not in path:
        return path if path in MAY_INCLUDE else None
    parts = path.split("/")
    if parts[0] == "backend" and len(parts) > 1:
        area = "backend/" + parts[1].removesuffix(".hpp")
    else:
        area = parts[0] if len(parts) > 1 else None
    return area if area in MAY_INCLUDE else None


def complaint_about(include, name, area, root):
    """What is wrong with including this from that header of that area, or None."""
    if include.startswith("ssm/"):
        if include.endswith(tuple(OF_LIBRARY)):
            return f"{include} is of a component that nothing else may need"
        if not (root / include).is_file():
            return f"{include} does not exist"
        target = area_of(include.removeprefix("ssm/"))
        if target not in MAY_INCLUDE[area] | EVERYWHERE:
            return f"{area} may not include {target or include}"
    elif not STANDARD.fullmatch(include):
        allowed = next((OF_LIBRARY[end] for end in OF_LIBRARY if area in (CPU, "long_range") and name.endswith(end)), OTHERS.get(area))
        if not allowed or not allowed.fullmatch(include):
            return f"{area} may not include {include}"
    return None


def cycles(graph):
    """One complaint for each include cycle: #pragma once hides them from the compiler."""
    state = {}

    def visit(node, path):
        state[node] = "open"
        for line, target in graph.get(node, ()):
            if state.get(target) == "open":
                names = path[path.index(target):] + [target]
                yield f"{node}:{line}: cycle: {' -> '.join(names)}"
            elif target not in state:
                yield from visit(target, path + [target])
        state[node] = "done"

    for node in sorted(graph):
        if node not in state:
            yield from visit(node, [node])


def left_out(graph):
    """One complaint for each header that ssm.hpp should hold and does not reach."""
    reached, ahead = set(), ["ssm/ssm.hpp"]
    while ahead:
        header = ahead.pop()
        if header not in reached:
            reached.add(header)
            ahead += [include for _, include in graph.get(header, ())]
    for header in sorted(graph):
        if area_of(header.removeprefix("ssm/")) in WHOLE and header not in reached:
            yield f"ssm/ssm.hpp:1: does not include {header}"


def missing_standard(name, text, graph):
    """One complaint for each name of std whose header is not among what this header includes, itself or through ours."""
    reached, ahead = set(), [name]
    while ahead:
        for _, include in graph.get(ahead.pop(), ()):
            if include not in reached:
                reached.add(include)
                ahead.append(include)
    said = set()
    for header, others in OTHER_NAMES.items():
        if header not in reached and (found := others.search(COMMENT_OR_STRING.sub("", text))):
            yield f"{name}:{text[:found.start()].count(chr(10)) + 1}: {found[0]} needs <{header}>"
    for number, line in enumerate(COMMENT_OR_STRING.sub("", text).splitlines(), 1):
        for used in STD_NAME.findall(line):
            if used in said:
                continue
            said.add(used)
            if used not in STD_HEADERS:
                yield f"{name}:{number}: std::{used} is not in the table of {Path(__file__).name}: say which header has it"
            elif not STD_HEADERS[used] & reached:
                yield f"{name}:{number}: std::{used} needs <{'> or <'.join(sorted(STD_HEADERS[used]))}>"


def check(root):
    """All complaints about the tree whose headers are root/ssm/**.hpp, as 'file:line: sentence'."""
    complaints, graph, texts = [], {}, {}
    for header in sorted((root / "ssm").rglob("*.hpp")):
        name = header.relative_to(root).as_posix()
        area = area_of(name.removeprefix("ssm/"))
        if area is None:
            complaints.append(f"{name}:1: not in any known folder")
            continue
        graph[name] = []
        texts[name] = header.read_text(encoding="utf-8")
        for number, line in enumerate(texts[name].splitlines(), 1):
            if area in NO_CONDITIONALS and name not in MAY_ASK_FOR_COMPILER and CONDITIONAL.match(line):
                complaints.append(f"{name}:{number}: no preprocessor conditionals in {area}/")
            found = INCLUDE.match(line)
            if not found:
                continue
            include = found[1] or found[2]
            graph[name].append((number, include))
            complaint = complaint_about(include, name, area, root)
            if complaint:
                complaints.append(f"{name}:{number}: {complaint}")
    for name, text in texts.items():
        complaints += missing_standard(name, text, graph)
    return complaints + list(cycles(graph)) + list(left_out(graph))


def check_cuda(root):
    """The same for the compiled half, root/FOLDER/*.cu and *.cuh."""
    complaints, graph = [], {}
    for file in sorted(path for path in root.rglob("*") if path.suffix in (".cu", ".cuh", ".cpp")):
        name = file.relative_to(root).as_posix()
        folder = name.rpartition("/")[0]
        if folder not in IN_CUDA:
            complaints.append(f"{name}:1: not in any known folder")
            continue
        graph[name] = []
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            found = INCLUDE.match(line)
            if not found or found[1]:
                continue
            graph[name].append((number, found[2]))
            if found[2].startswith("ssm/"):
                if area_of(found[2].removeprefix("ssm/")) not in CORE_OP | {CUDA}:
                    complaints.append(f"{name}:{number}: {folder} may not include {found[2]}")
            elif not (root / found[2]).is_file():
                complaints.append(f"{name}:{number}: {found[2]} does not exist")
            elif found[2].rpartition("/")[0] not in IN_CUDA[folder]:
                complaints.append(f"{name}:{number}: {folder} may not include {found[2]}")
    return complaints + list(cycles(graph))


def check_api(root, include):
    """The same for the library of the C interface, root/**, and its header include/ssm/api.h."""
    complaints, header = [], include / "ssm/api.h"
    for file in [header, *sorted(path for path in root.rglob("*") if path.suffix in (".hpp", ".cpp"))]:
        name = "ssm/api.h" if file == header else file.relative_to(root).as_posix()
        where = f"{include.name}/{name}" if file == header else f"{root.name}/{name}"
        if not file.is_file():
            complaints.append(f"{where}:1: does not exist")
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            found = INCLUDE.match(line)
            if not found:
                continue
            target = found[1] or found[2]
            area = area_of(target.removeprefix("ssm/"))
            if file == header:
                if target not in OF_C_HEADER:
                    complaints.append(f"{where}:{number}: a header of C may not include {target}")
            elif target == "ssm/api.h":
                continue
            elif target.startswith("ssm/"):
                if not (include / target).is_file():
                    complaints.append(f"{where}:{number}: {target} does not exist")
                elif area not in IN_API | ({CPU, REFERENCE, CUDA} if name == "backends.hpp" else set()):
                    complaints.append(f"{where}:{number}: api may not include {target}")
            elif found[2] and not any((folder / target).is_file() for folder in (file.parent, root)):
                complaints.append(f"{where}:{number}: {target} does not exist")
    return complaints


def check_trees(sound_name, sound, broken, check_root):
    """What is wrong where a sound tree, path to text, has complaints, or none at the last line of one that replaces it."""
    failures = []
    for name, change in {sound_name: None, **broken}.items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for path, text in (sound | dict([change] if change else [])).items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(text, encoding="utf-8")
            complaints = check_root(root)
            expected = f"{change[0]}:{change[1].count(chr(10))}: " if change else None
            if (change is None and complaints) or (change and not any(c.startswith(expected) for c in complaints)):
                failures.append(f"self-test '{name}': {complaints or 'not caught'}")
    return failures


def self_test():
    """Each broken tree is caught at its line, and the sound one passes."""
    sound = {
        "core/extents.hpp": "#include <array>\nstd::array<int, 2> x;  // std::vector\n",
        "op/matmul.hpp": '#include "ssm/core/extents.hpp"\n',
        "backend/reference/matmul.hpp": '#include "ssm/op/matmul.hpp"\n',
        "backend/cpu/matmul.hpp": '#include <xsimd/xsimd.hpp>\n#include "ssm/op/matmul.hpp"\n#if __AVX2__\n#endif\n',
        "backend/cpu/matmul_eigen.hpp": "#include <Eigen/Core>\n",
        "backend/cpu.hpp": '#include "ssm/backend/cpu/matmul.hpp"\n#include "ssm/backend/reference/matmul.hpp"\n',
        "layer/linear.hpp": '#include "ssm/op/matmul.hpp"\n',
        "io/safetensors.hpp": '#include <nlohmann/json.hpp>\n#include "ssm/core/extents.hpp"\n',
        "model/stack.hpp": '#include "ssm/layer/linear.hpp"\n',
        "backend/reference.hpp": '#include "ssm/backend/reference/matmul.hpp"\n',
        "laws/check.hpp": '#include "ssm/backend/reference.hpp"\n#include "ssm/io/safetensors.hpp"\n',
        "ssm.hpp": '#include "ssm/version.hpp"\n#include "ssm/model/stack.hpp"\n',
        "version.hpp": "#if __cplusplus < 202002L\n#endif\n",
        "platform.hpp": "#include <unistd.h>\n",
        "io/file.hpp": '#include "ssm/platform.hpp"\n',
    }
    broken = {
        "core uses op": ("core/extents.hpp", '#include "ssm/op/matmul.hpp"\n'),
        "core uses a third party": ("core/extents.hpp", "#include <nlohmann/json.hpp>\n"),
        "core uses POSIX": ("core/extents.hpp", "#include <unistd.h>\n"),
        "core has a conditional": ("core/extents.hpp", "#ifdef NDEBUG\n"),
        "op uses io": ("op/matmul.hpp", '#include "ssm/io/safetensors.hpp"\n'),
        "op uses a backend": ("op/matmul.hpp", '#include "ssm/backend/reference/matmul.hpp"\n'),
        "layer uses a backend": ("layer/linear.hpp", "  #  include <ssm/backend/cpu.hpp>\n"),
        "layer uses the laws": ("layer/linear.hpp", '#include "ssm/laws/check.hpp"\n'),
        "io uses the laws": ("io/safetensors.hpp", '#include "ssm/laws/check.hpp"\n'),
        "the laws use another backend": ("laws/check.hpp", '#include "ssm/backend/cpu.hpp"\n'),
        "the laws use a model": ("laws/check.hpp", '#include "ssm/model/stack.hpp"\n'),
        "layer uses a model": ("layer/linear.hpp", '#include "ssm/model/stack.hpp"\n'),
        "a backend uses a layer": ("backend/cpu/matmul.hpp", '#include "ssm/layer/linear.hpp"\n'),
        "a backend uses io": ("backend/cpu/matmul.hpp", '#include "ssm/io/safetensors.hpp"\n'),
        "reference uses cpu": ("backend/reference/matmul.hpp", '#include "ssm/backend/cpu.hpp"\n'),
        "composed uses reference": ("backend/composed/mixer.hpp", '#include "ssm/backend/reference/matmul.hpp"\n'),
        "the Cpu backend uses Eigen": ("backend/cpu/matmul.hpp", "#include <Eigen/Core>\n"),
        "files of long sequences use libpng": ("long_range/files.hpp", "#include <png.h>\n"),
        "the Cpu backend uses FFTW": ("backend/cpu/matmul.hpp", "#include <fftw3.h>\n"),
        "the Cpu backend uses its Eigen parts": ("backend/cpu.hpp", '#include "ssm/backend/cpu/matmul_eigen.hpp"\n'),
        "reference uses Eigen": ("backend/reference/matmul.hpp", "#include <Eigen/Core>\n"),
        "io uses POSIX": ("io/safetensors.hpp", "#include <unistd.h>\n"),
        "the Cpu backend uses POSIX": ("backend/cpu/matmul.hpp", "#include <pthread.h>\n"),
        "op uses the platform": ("op/matmul.hpp", '#include "ssm/platform.hpp"\n'),
        "io uses a backend": ("io/safetensors.hpp", '#include "ssm/backend/reference/matmul.hpp"\n'),
        "model uses io": ("model/stack.hpp", '#include "ssm/io/safetensors.hpp"\n'),
        "model uses JSON": ("model/stack.hpp", "#include <nlohmann/json.hpp>\n"),
        "the whole uses a backend": ("ssm.hpp", '#include "ssm/backend/reference/matmul.hpp"\n'),
        "the whole lacks a header": ("ssm.hpp", '#include "ssm/layer/linear.hpp"\n'),
        "core uses the version": ("core/extents.hpp", '#include "ssm/version.hpp"\n'),
        "std without its header": ("core/extents.hpp", "#include <array>\nstd::vector<int> x;\n"),
        "a name of std that is not known": ("core/extents.hpp", "#include <array>\nstd::no_such_thing x;\n"),
        "a header is missing": ("layer/linear.hpp", '#include "ssm/op/absent.hpp"\n'),
        "a folder is unknown": ("misc/odd.hpp", "#include <array>\n"),
        "a cycle": ("core/extents.hpp", '#include "ssm/core/extents.hpp"\n'),
    }
    failures = check_trees("sound", {f"ssm/{path}": text for path, text in sound.items()},
                           {name: (f"ssm/{path}", text) for name, (path, text) in broken.items()}, check)
    kernels = {
        "device/launch.cuh": "#include <cuda_runtime.h>\n",
        "kernel/parallel.cuh": '#include "device/launch.cuh"\n#include "ssm/backend/cuda/launch.hpp"\n',
        "convolution/plan.cuh": '#include "kernel/parallel.cuh"\n',
        "scan/mixer.cu": '#include "convolution/plan.cuh"\n',
    }
    broken_kernels = {
        "a kernel uses a layer": ("scan/mixer.cu", '#include "ssm/layer/linear.hpp"\n'),
        "a convolution uses a scan": ("convolution/plan.cuh", '#include "scan/mixer.cu"\n'),
        "the device uses a kernel": ("device/launch.cuh", '#include "kernel/parallel.cuh"\n'),
        "a kernel's header is missing": ("scan/mixer.cu", '#include "absent.cuh"\n'),
        "a kernel without a folder": ("mixer.cu", "#include <cuda_runtime.h>\n"),
    }
    failures += check_trees("sound kernels", kernels, broken_kernels, check_cuda)
    interface = {
        "include/ssm/api.h": "#include <stddef.h>\n",
        "include/ssm/layer/linear.hpp": "",
        "include/ssm/backend/cpu.hpp": "",
        "api/layer.hpp": '#include "ssm/api.h"\n#include "ssm/layer/linear.hpp"\n',
        "api/backends.hpp": '#include "ssm/backend/cpu.hpp"\n#include "layer.hpp"\n',
        "api/layers/linear.cpp": '#include "backends.hpp"\n',
    }
    broken_interface = {
        "the C header uses C++": ("include/ssm/api.h", "#include <vector>\n"),
        "a layer uses a backend": ("api/layers/linear.cpp", '#include "ssm/backend/cpu.hpp"\n'),
        "a header of api is missing": ("api/layer.hpp", '#include "absent.hpp"\n'),
        "a header of the library is missing": ("api/layer.hpp", '#include "ssm/layer/absent.hpp"\n'),
    }
    failures += check_trees("sound interface", interface, broken_interface,
                            lambda root: check_api(root / "api", root / "include"))
    return failures


def main(arguments):
    if arguments == ["--self-test"]:
        complaints = self_test()
    else:
        root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent / "include"
        if not (root / "ssm").is_dir():
            sys.exit(f"{root}: no folder 'ssm' in it")
        complaints = [f"{root.name}/{complaint}" for complaint in check(root)]
        kernels = root.parent / "cuda"
        complaints += [f"{kernels.name}/{complaint}" for complaint in check_cuda(kernels)]
        complaints += check_api(root.parent / "api", root)
    print("\n".join(complaints) or "The dependency direction holds.")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
