#pragma once
// The yardstick: the same model written with plain LibTorch operations and autograd, as Python users run it. Batches
// are padded to the longest sequence, attention has a mask tensor, logits are full. It shares the weights of our model.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "moelora/data/example.h"
#include "moelora/model/chatglm/chatglm.h"

namespace moelora::bench {

/// MOELoRA as the reference computes it: a loop over experts, each with a dropout of its own.
struct EagerMoeLora {
  struct Pair {
    at::Tensor A;  ///< [r/N, d_in]
    at::Tensor B;  ///< [d_out, r/N]
  };
  std::vector<std::vector<Pair>> experts;  ///< [linear][N], four linears a layer
  at::Tensor task_embedding;               ///< [K, 64]
  at::Tensor gate;                         ///< [N, 64]
  double scaling = 2.0;
  double dropout = 0.1;

  EagerMoeLora(const model::ChatGlmConfig& config, std::int64_t num_experts, std::int64_t rank, std::int64_t tasks);
  std::vector<at::Tensor> parameters() const;
};

struct PaddedBatch {
  at::Tensor ids;        ///< [B, T] int64
  at::Tensor positions;  ///< [2, B, T]
  at::Tensor hidden;     ///< [B, 1, T, T] bool: keys that a query does not see
  at::Tensor labels;     ///< [B, T], -100 where there is none
  at::Tensor tasks;      ///< [B]
};
PaddedBatch pad(const std::vector<const data::Example*>& examples);

/// Mean loss over the labels, attached to the graph. Gradients go to the embedding's output (`embedded`, a leaf made
/// here) when `moelora` is null, as a frozen model needs them for anything below; else to the adapter.
at::Tensor eager_loss(model::ChatGlm model, const PaddedBatch& batch, const EagerMoeLora* moelora);

}  // namespace moelora::bench
