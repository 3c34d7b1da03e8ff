// SPDX-License-Identifier: Apache-2.0
// In place of the kernels whose blocks walk along chunks, where there is no device: none is called.
#include "scan/cascaded_walk.cuh"
#include "scan/selective_walk.cuh"

namespace ssm::cuda {
namespace device {

template <class T>
void walk_selective_scan(const SelectiveWalk<T>&, WalkFor, Stream, const char* operation) {
  throw Failure(std::string(operation) + ": the host does not walk");
}
template <class T>
void walk_selective_scan_back(const SelectiveWalkBack<T>&, Stream, const char* operation) {
  throw Failure(std::string(operation) + ": the host does not walk");
}

template <class T, int M>
void walk_cascaded_scan(const CascadedWalk<T, M>&, Stream, const char* operation) {
  throw Failure(std::string(operation) + ": the host does not walk");
}
template <class T, int M>
void walk_cascaded_scan_back(const CascadedWalkBack<T, M>&, Stream, const char* operation) {
  throw Failure(std::string(operation) + ": the host does not walk");
}

#define SSM_INSTANTIATE(T)                                                                     \
  template void walk_selective_scan<T>(const SelectiveWalk<T>&, WalkFor, Stream, const char*); \
  template void walk_selective_scan_back<T>(const SelectiveWalkBack<T>&, Stream, const char*); \
  SSM_INSTANTIATE_CASCADE(T, 1)                                                                \
  SSM_INSTANTIATE_CASCADE(T, 2)
#define SSM_INSTANTIATE_CASCADE(T, M)                                                     \
  template void walk_cascaded_scan<T, M>(const CascadedWalk<T, M>&, Stream, const char*); \
  template void walk_cascaded_scan_back<T, M>(const CascadedWalkBack<T, M>&, Stream, const char*);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE
#undef SSM_INSTANTIATE_CASCADE

}  // namespace device

bool has_selective_walk() { return false; }

}  // namespace ssm::cuda
