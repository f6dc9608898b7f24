#pragma once
// A pretend accelerator behind LibTorch's PrivateUse1 key. Its memory is host memory that only operators and kernels
// may touch, its operators are the CPU's. It is as strict as CUDA where code written on a CPU goes wrong on a GPU:
//   * device memory is unreadable outside of operators: following a pointer ends the program with a backtrace;
//   * fresh memory holds NaN;
//   * tensors of both devices in one operator are an error (0-dim CPU tensors and CPU indices are taken, as CUDA does);
//   * a CPU generator with device tensors is an error.
// It counts what costs time on a GPU: operators (kernel launches, or more), waits, uploads and bytes.

#include <c10/core/Device.h>

#include <cstdint>
#include <map>
#include <string>

namespace moelora::testing::pretend {

struct Counters {
  std::int64_t operators = 0;         ///< operators and kernels of ours; views and allocations launch nothing
  std::int64_t waits = 0;             ///< the host waits: item(), copies to the host, blocking uploads, synchronize()
  std::int64_t uploads = 0;           ///< copies host → device, of any kind
  std::int64_t blocking_uploads = 0;  ///< those that wait until the stream is done: from pageable memory, or blocking
  std::int64_t uploaded_bytes = 0;
  std::int64_t peak_bytes = 0;  ///< of live device memory since reset()
  std::map<std::string, std::int64_t> by_operator;
  std::map<std::string, std::int64_t> waits_by_caller;  ///< the reason and the innermost functions of the library
  std::map<std::string, std::int64_t> uploads_by_caller;

  std::int64_t downloads_and_items() const { return waits - blocking_uploads; }
  /// Readable, one line for each entry; the `longest` most frequent operators.
  std::string to_text(std::size_t longest = 40) const;
};

/// Registers the device (once in a process) and returns it. Needs no other set-up.
c10::Device install();

/// Since the last reset(). Not to be read while another thread runs operators.
Counters counters();
void reset();
std::int64_t live_bytes();

/// Device memory may be touched by this process while one of these lives (for what plays the part of a kernel).
class Unlocked {
 public:
  Unlocked();
  ~Unlocked();
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;
};

/// Counts one launch. Operators that run while a Launch lives are its parts and don't count.
class Launch {
 public:
  explicit Launch(const std::string& name);
  ~Launch();
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

 private:
  Unlocked unlocked_;
};

}  // namespace moelora::testing::pretend
