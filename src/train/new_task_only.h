#pragma once
// How the trainer trains one task's embedding alone (TrainInputs::new_task_only).
//
// A gate's E is one parameter, so the optimizer holds all of it. All samples are of the last task, so the gradients of
// the other rows are zeros, and AdamW without weight decay leaves a row whose gradients were always zero as it is.

#include <string>
#include <utility>
#include <vector>

#include "moelora/train/trainer.h"

namespace moelora::train {

/// Error: no adapter or one without task gate, top_k = 1 (nothing would get a gradient), weight decay, a training
/// sample of another task than the adapter's last.
void check_new_task_only(const TrainInputs& inputs, const TrainingOptions& options);

/// Fingerprint of all that stays: a run is resumed on the adapter that it began with.
std::string fingerprint_of_frozen(const AdapterImpl& adapter);

/// While it lives, only the gates' embeddings require gradients, so that backward computes none for A and B.
class OnlyEmbeddings {
 public:
  explicit OnlyEmbeddings(AdapterImpl& adapter);
  ~OnlyEmbeddings();
  OnlyEmbeddings(const OnlyEmbeddings&) = delete;
  OnlyEmbeddings& operator=(const OnlyEmbeddings&) = delete;

 private:
  std::vector<std::pair<at::Tensor, bool>> before_;
};

}  // namespace moelora::train
