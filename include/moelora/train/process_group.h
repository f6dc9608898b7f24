#pragma once
// Several processes ("ranks") that train or evaluate together. Each holds the whole model and computes a part of the
// samples; they exchange sums over LibTorch's c10d: Gloo, and NCCL between GPUs in builds that have it.
//
// A rank is lost when its process dies or is stopped, when it cannot be reached, and when the thread that made its
// ProcessGroup neither computes nor waits for the others. All ranks that are left then get the same RankLost error,
// which names the lost one. They find out because each writes a sign of life twice a second to a key-value store that
// rank 0 (or torchrun) holds; MOELORA_RANK_TIMEOUT seconds of silence (default 20) count as lost.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "moelora/io/error.h"

namespace moelora::train {

/// Another rank is lost or has ended early; the text names it and its step.
class RankLost : public Error {
 public:
  using Error::Error;
};

/// This process among the others.
struct RankPlace {
  int rank = 0;
  int size = 1;
  int local_rank = 0;  ///< Among the processes of this machine: the index of its GPU.
  int local_size = 1;  ///< Processes on this machine.
  std::string address;
  int port = 0;                 ///< Of the store.
  bool launcher_store = false;  ///< The launcher holds the store, not rank 0.
  std::string attempt;          ///< Of a launcher that starts a failed job again.
  double timeout = 20.0;        ///< Seconds of silence after which a rank is lost.
};

/// From RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, as torchrun and others set them; LOCAL_RANK and LOCAL_WORLD_SIZE if
/// they are set. Nothing when WORLD_SIZE is absent or 1. Error listing what is missing or no number.
std::optional<RankPlace> place_from_environment();

class ProcessGroup {
 public:
  /// Called on a thread of its own when a rank is lost while this one is busy for another 10 s, so that a long step
  /// does not delay the end: usually prints the text and ends the process. Not called while a FileSection is open.
  using OnLost = std::function<void(const std::string& text)>;

  /// Waits for all ranks. RankLost naming those that don't come (within 2.5 times the timeout). Error if this build has
  /// no process groups. SIGPIPE is ignored from here on unless the program handles it.
  explicit ProcessGroup(const RankPlace& place, OnLost on_lost = {});
  /// Without finish() before it, the other ranks are told that this one ended early.
  ~ProcessGroup();
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;

  /// Null when place_from_environment() gives none.
  static std::unique_ptr<ProcessGroup> from_environment(OnLost on_lost = {});
  static bool available();  ///< Whether this build has process groups.

  int rank() const { return place_.rank; }
  int size() const { return place_.size; }
  bool is_first() const { return place_.rank == 0; }
  const RankPlace& place() const { return place_; }

  // All ranks call these, in the same order. Each throws RankLost instead of waiting for a lost rank.

  /// Replaces `values` (contiguous; fp32, fp64, int64 or uint8, on any device) by their sum over the ranks: the same
  /// bytes on all of them. Between GPUs with NCCL this does not wait for the device, and a lost rank is found by
  /// OnLost.
  void sum(const at::Tensor& values);
  /// Each rank's text, by rank.
  std::vector<std::string> gather(const std::string& text);
  /// Returns when all ranks are here.
  void barrier();

  void set_step(std::int64_t step);  ///< For the texts of errors.
  /// Tells the other ranks that this one ends: they get "rank R of N ended with an error (step S): WHY".
  void abandon(const std::string& why);
  /// The end of the common work: waits for all ranks. Nothing but the destructor may follow.
  void finish();

  /// While it lives, this rank counts as alive without computing (a slow disk), and OnLost waits.
  class FileSection {
   public:
    explicit FileSection(ProcessGroup* group);  ///< Null: nothing happens.
    ~FileSection();
    FileSection(const FileSection&) = delete;
    FileSection& operator=(const FileSection&) = delete;

   private:
    ProcessGroup* group_;
  };

 private:
  struct Links;
  [[noreturn]] void lost(const std::string& cause);

  RankPlace place_;
  std::unique_ptr<Links> links_;
};

}  // namespace moelora::train
