#pragma once
// Folding one task's update into the frozen weights: W = round(W0 + s · B diag(g) A), accumulated in fp32, rounded once
// to the weight's dtype. On a CPU a weight is read and written once, which takes about as long as copying it.
//
// A linear carries at most one merged adapter: nn::LinearImpl::merged_adapter names it, and merging another adapter
// into the same weights is an Error (their restores would undo each other in the wrong order).

#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moelora/adapter/adapter.h"

namespace moelora {

struct MergeOptions {
  /// Where the base's bytes are kept for unmerge.
  enum class KeepBase {
    device,  ///< Copy on the weights' device: as much memory again as the adapted weights. Fastest switch.
    host,    ///< Copy in host memory: as much of it as the adapted weights; nothing more on the device.
    reread,  ///< Nothing kept; `reread` is asked for each weight (a mapped model folder) and must give its very bytes,
             ///< which is checked before the first merge.
    none,    ///< Nothing kept: the merge is final (export of a merged model). A failure half-way can't be undone.
  };
  KeepBase keep_base = KeepBase::device;
  std::function<at::Tensor(const std::string& name)> reread;  ///< Weight by checkpoint name, bytes as loaded.
  /// Measure rounding and update (where the weights are fp32: one more product, in fp64, which takes longer than the
  /// merge itself). It changes no bit of the result. Without it the certificate has -1 there and a weight that leaves
  /// the range of its dtype is not noticed.
  bool measure = true;
  /// Runs the model on a probe batch and returns its logits (fp32); called unmerged, with the adapter's context, and
  /// merged (is_merged()), with nn::RowContext::plain(). Empty: no probe.
  std::function<at::Tensor()> probe;
};

/// What a merge did to the numbers; returned, and written beside a merged model as merge_certificate.json.
struct Certificate {
  std::string what;  ///< "task CMeIE" or "mix CMeIE=0.5,MedDG=0.5"
  std::int64_t linears = 0;
  std::string dtype;
  /// max |merged weight - (W0 + ΔW)| over all merged weights; the sum in fp32 for fp16 and bf16 weights, in fp64 for
  /// fp32.
  double largest_rounding = -1;
  std::string largest_rounding_at;       ///< name of that linear
  double largest_update = -1;            ///< max |ΔW|
  double largest_logit_difference = -1;  ///< unmerged against merged on the probe batch; -1: no probe
  nlohmann::ordered_json to_json() const;
};

// Numbers that are NaN or infinite (in the adapter, in the base, in a merged weight, in the probe's logits) are an
// io::NotFinite that names them; a Certificate holds only finite ones.

/// Folds a task. A merged adapter is first unmerged (a switch is exact). While merged the deltas are inactive, and the
/// adapter's contexts are accepted for that task alone: others are an Error, as all are while a mixture is merged. Any
/// error on the way leaves the base with its original bytes (except with KeepBase::none). Error: unknown task,
/// NotMergeable (an update that is no matrix, a weight that other modules share), a weight out of its dtype's range,
/// another adapter active on or merged into the linears.
Certificate merge_for_task(Adapter& adapter, std::string_view task, const MergeOptions& options = {});
/// Folds Σ weight_t · ΔW_t. Weights are used as they are.
Certificate merge_mixture(Adapter& adapter, const std::vector<std::pair<std::string, double>>& mixture,
                          const MergeOptions& options = {});
/// Restores the base's original bytes and enables the adapter. Error if not merged or nothing was kept.
void unmerge(Adapter& adapter);
bool is_merged(const Adapter& adapter);
/// Error io::NotFinite naming the adapter's tensors that hold NaN or infinity.
void require_finite(const AdapterImpl& adapter);
/// Error NotMergeable for an adapter that is more than a change of weights, one with a prefix, or whose deltas have no
/// matrix (token routing). merge_for_task, merge_mixture and the writers of other programs' formats ask it first.
void require_mergeable(const AdapterImpl& adapter);

/// "CMeIE=0.5,MedDG=0.5" → pairs; weights need not sum to 1. Error naming the bad part: no weight, a weight that is no
/// finite number, a task that comes twice.
std::vector<std::pair<std::string, double>> parse_mixture(std::string_view text);

}  // namespace moelora
