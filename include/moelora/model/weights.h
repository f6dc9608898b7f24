#pragma once
// The weights of a model, whatever its family: where a graph takes them from, which ones a checkpoint must hold, and
// those of a model as they are saved and fingerprinted. Two names of a checkpoint may be one tensor (a tied head).

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "moelora/io/safetensors.h"
#include "moelora/io/tensor_folder.h"
#include "moelora/model/causal_lm.h"

namespace moelora::model {

/// Where a graph's tensors come from: called with the checkpoint name and shape of each.
using TensorSource = std::function<at::Tensor(const std::string& name, at::IntArrayRef shape)>;

/// Random initial values of a dtype: weights N(0, 0.02²), biases 0, norms 1.
TensorSource random_tensors(std::uint64_t seed, at::ScalarType dtype = at::kFloat);

/// Tensors of the right shapes that take no memory: one zero, seen through strides of 0. A graph of them has names and
/// sizes, and can be adapted and counted, not run.
TensorSource weightless_tensors(at::ScalarType dtype = at::kFloat);

/// Two names that may be one tensor: a checkpoint may leave the head out, or hold the same bytes twice.
struct TiedHead {
  std::string embedding;
  std::string head;
};

/// `source`, asked once for both names: a graph that is made from it has a tied head.
TensorSource with_tied_head(TensorSource source, TiedHead names);

/// What a checkpoint must hold: names and shapes in the order in which the graph asks for them, the embedding first.
struct ExpectedTensors {
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> tensors;
  std::optional<TiedHead> tied_head;  ///< Nothing: every tensor must be there, and none is another.

  /// Numbers in all tensors; `tied`: a head that is the embedding counts once.
  std::int64_t parameter_count(bool tied) const;
};

/// The expected tensors against those of a folder, one line for each that is missing, unexpected, misshapen or of a
/// type that can't be computed with, the first of each kind, and the nearest names. Empty: the weights fit.
/// (`rotary_emb.inv_freq` entries, which older programs saved, are ignored.)
std::string tensor_problems(const io::TensorFolder& found, const ExpectedTensors& expected);

/// The base weights by checkpoint name, as they are fingerprinted (a tied head appears under both names).
io::NamedTensors base_tensors(const CausalLM& model);

/// Names of a model's tensors that are the tensor of an earlier name too.
std::vector<std::string> tied_names(const CausalLM& model);

/// Fingerprint of the base weights (io/fingerprint.h).
std::string base_fingerprint(const CausalLM& model);

}  // namespace moelora::model
