// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <ssm/backend/cuda/dlpack.hpp>
#include <ssm/core/dlpack.hpp>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

using doctest::Contains;
using ssm::from_dlpack;
using ssm::to_dlpack;

namespace {

// As dlpack.h has them.
enum DLDeviceType { kDLCPU = 1, kDLCUDA = 2, kDLCUDAHost = 3 };
struct DLDevice {
  DLDeviceType device_type;
  std::int32_t device_id;
};
struct DLDataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor*);
};
struct DLPackVersion {
  std::uint32_t major;
  std::uint32_t minor;
};
struct DLManagedTensorVersioned {
  DLPackVersion version;
  void* manager_ctx;
  void (*deleter)(DLManagedTensorVersioned*);
  std::uint64_t flags;
  DLTensor dl_tensor;
};
static_assert(sizeof(DLTensor) == 48 && sizeof(DLManagedTensorVersioned) == 80);
static_assert(ssm::DlpackManaged<DLManagedTensor> && !ssm::DlpackVersioned<DLManagedTensor>);
static_assert(ssm::DlpackVersioned<DLManagedTensorVersioned>);

/// A tensor of somebody else: 2 × 3 × 4 floats, counted up.
struct Theirs {
  std::vector<float> memory = std::vector<float>(24);
  std::int64_t shape[3] = {2, 3, 4}, strides[3] = {12, 4, 1};
  DLTensor tensor{memory.data(), {kDLCPU, 0}, 3, {2, 32, 1}, shape, strides, 0};
  Theirs() {
    for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<float>(i);
  }
};

template <class T, int rank>
std::string refusal(const DLTensor& tensor) {
  try {
    from_dlpack<T, rank>(tensor);
  } catch (const ssm::Error& error) {
    return error.what();
  }
  return "taken";
}

int deleted = 0;

}  // namespace

TEST_CASE("a tensor of another library is seen in its own memory, whatever its strides") {
  Theirs theirs;
  const auto x = from_dlpack<float, 3>(theirs.tensor);
  CHECK(x(1, 2, 3) == 23);
  x(0, 1, 2) = -1;
  CHECK(theirs.memory[6] == -1);

  theirs.tensor.strides = nullptr;  // as older versions write a tensor without gaps
  CHECK(from_dlpack<const float, 3>(theirs.tensor)(1, 2, 3) == 23);

  std::int64_t reversed[3] = {12, -4, 1};
  theirs.tensor.strides = reversed;
  theirs.tensor.byte_offset = 8 * sizeof(float);
  CHECK(from_dlpack<const float, 3>(theirs.tensor)(1, 2, 3) == 15);

  std::int64_t repeated[3] = {12, 0, 1};  // one row for every position
  theirs.tensor.strides = repeated;
  theirs.tensor.byte_offset = 0;
  CHECK(from_dlpack<const float, 3>(theirs.tensor)(1, 2, 3) == 15);
}

TEST_CASE("a tensor that cannot be taken is refused in a sentence") {
  Theirs theirs;
  CHECK(refusal<double, 3>(theirs.tensor) ==
        "from_dlpack: the tensor is of float32, must be of float64");
  CHECK(refusal<ssm::BFloat16, 3>(theirs.tensor).ends_with("must be of bfloat16"));
  CHECK(refusal<ssm::Float16, 3>(theirs.tensor).ends_with("must be of float16"));
  CHECK(refusal<std::int64_t, 3>(theirs.tensor).ends_with("must be of int64"));
  CHECK(refusal<bool, 3>(theirs.tensor).ends_with("must be of bool8"));
  CHECK(refusal<float, 2>(theirs.tensor) == "from_dlpack: the tensor must have 2 axes, got 3");

  DLTensor tensor = theirs.tensor;
  tensor.dtype.lanes = 4;
  CHECK(refusal<float, 3>(tensor) == "from_dlpack: the tensor is of float32x4, must be of float32");
  tensor = theirs.tensor;
  tensor.device.device_type = kDLCUDA;
  CHECK(refusal<float, 3>(tensor) ==
        "from_dlpack: the tensor lies on a device of type 2, which is not host memory");
  CHECK_THROWS_WITH((from_dlpack<float, 3, ssm::cuda::CudaSpace>(theirs.tensor)),
                    Contains("of type 1, which is not CUDA device memory"));
  CHECK(from_dlpack<float, 3, ssm::cuda::CudaSpace>(tensor).data() == theirs.memory.data());
  tensor.device.device_type = kDLCUDAHost;
  CHECK(refusal<float, 3>(tensor) == "taken");
  tensor = theirs.tensor;
  tensor.byte_offset = 1;
  CHECK(refusal<float, 3>(tensor).ends_with("no multiple of its scalar's size"));
  tensor = theirs.tensor;
  tensor.data = nullptr;
  CHECK(refusal<float, 3>(tensor) == "from_dlpack: the tensor has no memory");
  theirs.shape[1] = 0;
  CHECK(refusal<float, 3>(tensor) == "taken");
  theirs.shape[1] = -3;
  CHECK(refusal<float, 3>(tensor) == "from_dlpack: the tensor has the extent -3 on axis 1");
  theirs.shape[1] = std::int64_t{1} << 62;
  CHECK(refusal<float, 3>(tensor).ends_with("has more elements than memory can hold"));
  theirs.shape[1] = 3;
  theirs.strides[1] = 0;
  CHECK(refusal<float, 3>(theirs.tensor).ends_with("needs memory for each element"));
  CHECK(refusal<const float, 3>(theirs.tensor) == "taken");
  tensor = theirs.tensor;
  tensor.shape = nullptr;
  CHECK(refusal<float, 3>(tensor).ends_with("has 3 axes and no shape"));
}

TEST_CASE("the owner of a tensor is told once, when it is no longer needed") {
  Theirs theirs;
  DLManagedTensor managed{theirs.tensor, nullptr, [](DLManagedTensor*) { ++deleted; }};
  deleted = 0;
  {
    auto x = from_dlpack<float, 3>(&managed);
    const auto moved = std::move(x);
    const ssm::View<const float, 3> view = moved;
    CHECK(view(1, 2, 3) == 23);
    CHECK(deleted == 0);
  }
  CHECK(deleted == 1);
  CHECK_THROWS_AS((from_dlpack<double, 3>(&managed)), ssm::ArgumentError);  // refused, and let go
  CHECK(deleted == 2);
  managed.deleter = nullptr;
  from_dlpack<float, 3>(&managed);
  CHECK_THROWS_AS((from_dlpack<float, 3>(static_cast<DLManagedTensor*>(nullptr))),
                  ssm::ArgumentError);
}

TEST_CASE("a version that is not known and memory that may not be written are refused") {
  Theirs theirs;
  DLManagedTensorVersioned managed{
      {1, 7}, nullptr, [](DLManagedTensorVersioned*) { ++deleted; }, 1, theirs.tensor};
  deleted = 0;
  CHECK(from_dlpack<const float, 3>(&managed).view()(1, 2, 3) == 23);
  CHECK_THROWS_WITH((from_dlpack<float, 3>(&managed)),
                    "from_dlpack: the tensor is read-only, and is to be written");
  managed.version.major = 2;
  CHECK_THROWS_WITH((from_dlpack<const float, 3>(&managed)),
                    "from_dlpack: the tensor is of DLPack 2, this library knows 1");
  CHECK(deleted == 3);
}

TEST_CASE_TEMPLATE("a tensor goes out and comes back", T, float, double, ssm::BFloat16,
                   ssm::Float16, std::int32_t, std::int64_t, std::uint8_t, bool) {
  ssm::Tensor<T, ssm::Extents<ssm::dyn, 4>> tensor({3});
  tensor.data()[7] = T(1.0F);
  const T* const memory = tensor.data();
  DLManagedTensor* const out = to_dlpack<DLManagedTensor>(std::move(tensor));
  CHECK(!tensor);
  CHECK((out->dl_tensor.ndim == 2 && out->dl_tensor.shape[0] == 3 && out->dl_tensor.shape[1] == 4));
  CHECK((out->dl_tensor.strides[0] == 4 && out->dl_tensor.strides[1] == 1));
  CHECK(out->dl_tensor.device.device_type == kDLCPU);
  CHECK(out->dl_tensor.dtype.bits == 8 * sizeof(T));
  const auto back = from_dlpack<T, 2>(out);
  CHECK(back.view().data() == memory);
  CHECK(back.view()(1, 3) == T(1.0F));
}

TEST_CASE("a view goes out with the owner of its memory, and says that it is const") {
  const auto owner = std::make_shared<ssm::DynamicTensor<float, 3>>();
  owner->reset({2, 3, 4});
  const ssm::View<const float, 3> swapped = std::as_const(*owner).view().transpose(0, 2);
  auto* const out = to_dlpack<DLManagedTensorVersioned>(swapped, owner, 0);
  CHECK(owner.use_count() == 2);
  CHECK((out->version.major == 1 && out->flags == 1));
  CHECK((out->dl_tensor.shape[0] == 4 && out->dl_tensor.strides[0] == 1));
  out->deleter(out);
  CHECK(owner.use_count() == 1);

  // For one call, without an owner.
  const ssm::DlpackView<DLTensor, 3> view(owner->view());
  const ssm::DlpackView<DLTensor, 3> copy = view;
  CHECK(copy.get()->shape != view.get()->shape);
  CHECK(from_dlpack<float, 3>(*copy).data() == owner->data());

  const ssm::View<float, 1, ssm::cuda::CudaSpace> far(owner->data(), {24});
  const ssm::DlpackView<DLTensor, 1> on_device(far, 1);
  CHECK((on_device.get()->device.device_type == kDLCUDA && on_device.get()->device.device_id == 1));
}
