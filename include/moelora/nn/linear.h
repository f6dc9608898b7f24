#pragma once
// torch::nn::Linear's parameters and names, plus the ability to carry deltas. The base model owns weight and bias; a
// delta is attached, not registered: saving, cloning, moving or halving the base never touches the adapter.

#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "moelora/nn/linear_delta.h"
#include "moelora/nn/row_context.h"

namespace moelora::nn {

class LinearImpl : public torch::nn::Cloneable<LinearImpl> {
 public:
  /// Initialised as torch::nn::Linear. bias = false leaves `bias` undefined.
  LinearImpl(std::int64_t in_features, std::int64_t out_features, bool bias = true);
  /// Around existing tensors: weight [d_out, d_in], bias [d_out] or undefined. They are registered as they are.
  explicit LinearImpl(at::Tensor weight, at::Tensor bias = {});
  void reset() override;
  void pretty_print(std::ostream& stream) const override;

  /// x [..., d_in] → [..., d_out], without context. Error while a delta is active: it would be silently left out.
  at::Tensor forward(const at::Tensor& x);
  /// x [rows, d_in], or [..., d_in] whose leading axes flatten to the context's rows (padded [B, T, d], B the context's
  /// sequences). Error if the context does not describe x, or was made by another adapter than the active one, or by
  /// one that is merged as another task.
  at::Tensor forward(const at::Tensor& x, const RowContext& context);
  /// That error about the adapter; part of forward, for graphs that are written out.
  void require_context_of_active(const RowContext& context) const {
    const auto* origin = context.origin.get();
    if (origin != nullptr && origin->adapter->id != active_id_ && (active_ != nullptr || !merged_adapter.empty())) {
      check_other_context(*origin);
    }
  }

  /// Adds a delta under an adapter's name; it starts inactive. Error if the name is taken, or the linear takes none.
  void attach(const std::string& adapter, std::shared_ptr<LinearDelta> delta);
  void detach(const std::string& adapter);
  /// Chooses the delta that forward applies; an empty name: none. Error if nothing is attached under that name.
  void activate(const std::string& adapter);
  const std::string& active() const { return active_name_; }
  LinearDelta* delta(const std::string& adapter) const;  ///< nullptr if not attached.
  LinearDelta* active_delta() const { return active_; }  ///< nullptr if none is active.
  /// From now on attach() and inject() are errors that give `reason`: for a linear that the model runs without a
  /// RowContext.
  void refuse_deltas(std::string reason) { refusal_ = std::move(reason); }
  const std::string& refusal() const { return refusal_; }  ///< Empty: deltas are taken.

  std::int64_t in_features() const { return in_features_; }
  std::int64_t out_features() const { return out_features_; }

  at::Tensor weight;  ///< [d_out, d_in]
  at::Tensor bias;    ///< [d_out] or undefined
  /// Name of the adapter that is folded into `weight` at present; empty: none. Kept by adapter/merge.h.
  std::string merged_adapter;
  /// Name of another parameter of the base that is the same tensor as `weight`; empty: none. Found by inject(): a
  /// merge, which would change both, is refused.
  std::string shared_with;

 private:
  void check_other_context(const ContextOrigin& origin) const;
  void check_shape(const at::Tensor& x, const RowContext& context) const;
  std::int64_t in_features_;
  std::int64_t out_features_;
  bool with_bias_;
  std::vector<std::pair<std::string, std::shared_ptr<LinearDelta>>> deltas_;
  std::string active_name_;
  std::string refusal_;
  LinearDelta* active_ = nullptr;
  std::uint64_t active_id_ = 0;  // of the active delta's adapter
};
TORCH_MODULE(Linear);

}  // namespace moelora::nn
