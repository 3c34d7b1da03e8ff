// SPDX-License-Identifier: Apache-2.0
#include "device/launch.cuh"
#include "device/row_exchange.cuh"

namespace ssm::cuda {

RowExchange::RowExchange(Stream stream) : memory_(static_cast<Memory*>(allocate(sizeof(Memory)))) {
  const auto code = cudaMemsetAsync(memory_, 0, sizeof(Memory), static_cast<cudaStream_t>(stream));
  if (code == cudaSuccess) return;
  deallocate(memory_);
  device::check(code, "cudaMemsetAsync");
}

RowExchange* create_row_exchange(Stream stream) { return new RowExchange(stream); }
void destroy_row_exchange(RowExchange* exchange) noexcept { delete exchange; }

}  // namespace ssm::cuda
