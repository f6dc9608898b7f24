#include "reading.h"

#include <ATen/Parallel.h>

#include <limits>

#include "harness.h"
#include "isa/readers.h"
#include "moelora/io/error.h"
#include "nn/kernels/cpu/cpu_kernels.h"

namespace moelora::bench {
namespace {

const Reader* readers_of(const std::string& instruction_set) {
#if defined(__x86_64__)
  if (instruction_set == "avx512") {
    return avx512::readers();
  }
  if (instruction_set == "avx2") {
    return avx2::readers();
  }
#endif
  MOELORA_CHECK(instruction_set == "plain", "expected an instruction set with readers, found ", instruction_set,
                "; add them to tests/benchmarks/isa");
  return plain::readers();
}

// Each thread reads its share of each tensor, without waiting for the others in between.
double read_seconds(const std::vector<at::Tensor>& tensors, const Reader& reader) {
  const std::int64_t threads = at::get_num_threads();
  std::vector<float> sums(static_cast<std::size_t>(threads));
  return seconds_of([&] {
    at::parallel_for(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t thread = begin; thread < end; ++thread) {
        float sum = 0.0f;
        for (const at::Tensor& tensor : tensors) {
          const std::int64_t first = tensor.numel() * thread / threads;
          const std::int64_t last = tensor.numel() * (thread + 1) / threads;
          sum += reader.read(tensor.const_data_ptr<float>() + first, last - first);
        }
        sums[static_cast<std::size_t>(thread)] = sum;
      }
    });
  });
}

}  // namespace

ReadingLimit::ReadingLimit(std::vector<at::Tensor> tensors)
    : tensors_(std::move(tensors)), seconds_(std::numeric_limits<double>::infinity()) {
  for (const at::Tensor& tensor : tensors_) {
    MOELORA_CHECK(tensor.is_contiguous() && tensor.scalar_type() == at::kFloat, "expected contiguous fp32 tensors");
  }
}

void ReadingLimit::measure() {
  for (const nn::kernels::CpuKernels* kernels : nn::kernels::available_cpu_kernels()) {
    const Reader* readers = readers_of(kernels->name);
    for (int i = 0; i < kReaders; ++i) {
      was_read_in(read_seconds(tensors_, readers[i]),
                  detail::concat(kernels->name, ", ", readers[i].streams, " streams, ", readers[i].ahead,
                                 " bytes fetched ahead"));
    }
  }
}

void ReadingLimit::was_read_in(double seconds, const std::string& by) {
  if (seconds < seconds_) {
    seconds_ = seconds;
    by_ = by;
  }
}

double ReadingLimit::bytes() const {
  double bytes = 0.0;
  for (const at::Tensor& tensor : tensors_) {
    bytes += static_cast<double>(tensor.nbytes());
  }
  return bytes;
}

}  // namespace moelora::bench
