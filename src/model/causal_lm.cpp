#include "moelora/model/causal_lm.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "nn/kernels/cuda/cross_entropy.h"

namespace moelora::model {
namespace {

/// parameters().front() without making the list of all, which a step of decoding would notice. Undefined: there is
/// none.
at::Tensor first_parameter(const torch::nn::Module& module) {
  const auto own = module.parameters(/*recurse=*/false);
  if (!own.empty()) {
    return own.front();
  }
  for (const auto& child : module.children()) {
    at::Tensor found = first_parameter(*child);
    if (found.defined()) {
      return found;
    }
  }
  return {};
}

// Elements of one chunk of logits: 64 MiB in fp32.
constexpr std::int64_t kChunkElements = 16ll << 20;

// What a unit gradient is stored times: in fp16, small probabilities would otherwise be lost.
double stored_scale(const at::Tensor& logits) {
  return nn::kernels::has_device_kernels(logits) && logits.scalar_type() == at::kHalf ? 1024.0 : 1.0;
}

// Two products and one kernel for each chunk, whose logits, in their own type, become their gradient.
void losses_on_device(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels,
                      const at::Tensor& losses, const at::Tensor& unit_gradient) {
  const auto bytes = weight.size(0) * static_cast<std::int64_t>(hidden.element_size());
  const auto chunk = std::max<std::int64_t>(1, kChunkElements * static_cast<std::int64_t>(sizeof(float)) / bytes);
  for (std::int64_t begin = 0; begin < hidden.size(0); begin += chunk) {
    const auto count = std::min(chunk, hidden.size(0) - begin);
    const at::Tensor logits = at::mm(hidden.narrow(0, begin, count), weight.t());
    nn::kernels::cross_entropy_(logits, labels.narrow(0, begin, count), losses.narrow(0, begin, count),
                                unit_gradient.defined() ? stored_scale(logits) : 0.0);
    if (unit_gradient.defined()) {
      at::Tensor part = unit_gradient.narrow(0, begin, count);
      at::mm_out(part, logits, weight);
    }
  }
}

// loss_i = logsumexp(h_i W^T) - (h_i W^T)[label_i]. The gradient for h of each row is a multiple of
// (softmax - onehot) W, so forward stores that product and backward only scales it: logits are computed once.
class HeadLoss : public torch::autograd::Function<HeadLoss> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& hidden,
                            const at::Tensor& weight, const at::Tensor& labels) {
    const auto rows = hidden.size(0);
    const auto chunk = std::max<std::int64_t>(1, kChunkElements / weight.size(0));
    const bool need_hidden = hidden.requires_grad();
    at::Tensor losses = at::empty({rows}, hidden.options().dtype(at::kFloat).requires_grad(false));
    at::Tensor unit_gradient = need_hidden ? at::empty_like(hidden, at::MemoryFormat::Contiguous) : at::Tensor();
    const bool on_device = nn::kernels::has_device_kernels(hidden) && weight.scalar_type() == hidden.scalar_type();
    if (on_device) {
      losses_on_device(hidden, weight, labels, losses, unit_gradient);
    }
    for (std::int64_t begin = 0; !on_device && begin < rows; begin += chunk) {
      const auto count = std::min(chunk, rows - begin);
      const at::Tensor label = labels.narrow(0, begin, count).unsqueeze(1);
      const at::Tensor h = hidden.narrow(0, begin, count);
      at::Tensor logits = at::mm(h, weight.t()).to(at::kFloat);
      const at::Tensor normaliser = at::logsumexp(logits, {1}, /*keepdim=*/true);
      losses.narrow(0, begin, count).copy_((normaliser - logits.gather(1, label)).squeeze(1));
      if (need_hidden) {
        logits.sub_(normaliser).exp_().scatter_add_(1, label, at::full_like(normaliser, -1.0));
        unit_gradient.narrow(0, begin, count).copy_(at::mm(logits.to(weight.scalar_type()), weight));
      }
    }
    context->save_for_backward({hidden, weight, labels, unit_gradient});
    return losses;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& hidden = saved[0];
    const at::Tensor& weight = saved[1];
    const at::Tensor& labels = saved[2];
    const at::Tensor scale = gradients[0].unsqueeze(1);  // [n, 1]
    at::Tensor dhidden, dweight;
    if (context->needs_input_grad(0)) {
      dhidden = nn::kernels::has_device_kernels(hidden)
                    ? (saved[3] * (scale / stored_scale(hidden))).to(hidden.scalar_type())
                    : saved[3] * scale.to(hidden.scalar_type());
    }
    if (context->needs_input_grad(1)) {
      dweight = at::zeros_like(weight);
      const auto rows = hidden.size(0);
      const auto chunk = std::max<std::int64_t>(1, kChunkElements / weight.size(0));
      for (std::int64_t begin = 0; begin < rows; begin += chunk) {
        const auto count = std::min(chunk, rows - begin);
        const at::Tensor h = hidden.narrow(0, begin, count);
        at::Tensor p = at::softmax(at::mm(h, weight.t()).to(at::kFloat), 1);
        p.scatter_add_(1, labels.narrow(0, begin, count).unsqueeze(1), at::full({count, 1}, -1.0, p.options()));
        p.mul_(scale.narrow(0, begin, count));
        dweight.addmm_(p.to(weight.scalar_type()).t(), h);
      }
    }
    return {dhidden, dweight, {}};
  }
};

}  // namespace

at::Device CausalLM::device() const { return first_parameter(*this).device(); }

at::ScalarType CausalLM::dtype() const { return first_parameter(*this).scalar_type(); }

nn::Segments CausalLM::segments(const std::vector<std::int64_t>& lengths, const std::vector<std::int64_t>&) const {
  return nn::Segments::from_lengths(lengths);
}

void CausalLM::visit_outputs(const at::Tensor& ids, const at::Tensor& positions, const nn::RowContext& context,
                             const OutputVisitor& visit) {
  const at::Tensor rows = hidden(ids, positions, context);
  visit("", logits(rows.narrow(0, rows.size(0) - 1, 1)));
}

std::optional<StepCost> CausalLM::step_cost(const Workload&, std::int64_t) const { return std::nullopt; }

at::Tensor token_losses(CausalLM& model, const at::Tensor& hidden_rows, const at::Tensor& labels) {
  const at::Tensor weight = model.head_weight();
  if (!weight.defined()) {
    const at::Tensor logits = model.logits(hidden_rows).to(at::kFloat);
    return at::cross_entropy_loss(logits, labels, {}, at::Reduction::None);
  }
  return HeadLoss::apply(hidden_rows, weight, labels);
}

}  // namespace moelora::model
