#include "moelora/adapter/prefix_encoder.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <ostream>

#include "moelora/io/error.h"
#include "moelora/nn/dropout.h"

namespace moelora {
namespace {

constexpr std::uint64_t kPrefixMasks = 0x70726566697865ull;  // the prefix's place among the linears' masks

// Dropout of values [P, width] with a mask of its own for each sample, [S · P, width]; backward draws the masks again.
class SampleDropout : public torch::autograd::Function<SampleDropout> {
 public:
  struct Masks : torch::CustomClassHolder {
    double p = 0.0;
    nn::RowContext rows;  // S segments of P rows
    at::Tensor apply(const at::Tensor& x) const { return nn::apply_keyed_dropout(x, p, kPrefixMasks, rows); }
  };

  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& values,
                            c10::intrusive_ptr<Masks> masks) {
    at::Tensor dropped = masks->apply(values.repeat({masks->rows.segments.count(), 1}));
    context->saved_data["masks"] = c10::IValue::make_capsule(std::move(masks));
    return dropped;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto capsule = context->saved_data["masks"].toCapsule();
    const auto& masks = static_cast<const Masks&>(*capsule);
    const at::Tensor all = masks.apply(gradients[0]);
    return {all.view({masks.rows.segments.count(), -1, all.size(1)}).sum(0), {}};
  }
};

}  // namespace

PrefixEncoderImpl::PrefixEncoderImpl(const PrefixConfig& config, const nn::PrefixShape& shape)
    : torch::nn::Module("PrefixEncoder"), dropout_(config.dropout), shape_(shape) {
  MOELORA_CHECK(config.length >= 1 && shape.layers >= 1 && shape.heads >= 1 && shape.head_dim >= 1,
                "expected a prefix of at least one position for a model with layers and heads, found length ",
                config.length, " for ", shape.layers, " layers of ", shape.heads, " heads");
  const auto hidden = shape.hidden();
  embedding = register_parameter("embedding", at::zeros({config.length, config.projection ? hidden : shape.width()}));
  if (config.projection) {
    hidden_weight = register_parameter("hidden_weight", at::zeros({hidden, hidden}));
    hidden_bias = register_parameter("hidden_bias", at::zeros({hidden}));
    output_weight = register_parameter("output_weight", at::zeros({shape.width(), hidden}));
    output_bias = register_parameter("output_bias", at::zeros({shape.width()}));
  }
}

void PrefixEncoderImpl::pretty_print(std::ostream& stream) const {
  stream << "moelora::PrefixEncoder(length=" << embedding.size(0) << ", layers=" << shape_.layers
         << ", hidden=" << shape_.hidden() << ", projection=" << std::boolalpha << hidden_weight.defined() << ")";
}

void PrefixEncoderImpl::reset_parameters(at::Generator generator) {
  at::NoGradGuard guard;
  embedding.normal_(0.0, 1.0, generator);
  const double bound = 1.0 / std::sqrt(static_cast<double>(shape_.hidden()));
  for (at::Tensor parameter : {hidden_weight, hidden_bias, output_weight, output_bias}) {
    if (parameter.defined()) {
      parameter.uniform_(-bound, bound, generator);
    }
  }
}

std::vector<nn::KeyValuePrefix> PrefixEncoderImpl::forward(const nn::DropoutKey& dropout) const {
  at::Tensor values = embedding;
  if (hidden_weight.defined()) {
    values = at::linear(at::tanh(at::linear(embedding, hidden_weight, hidden_bias)), output_weight, output_bias);
  }
  std::vector<std::int64_t> shape{embedding.size(0), 2 * shape_.layers, shape_.heads, shape_.head_dim};
  if (dropout_ > 0.0 && dropout.active()) {
    const auto samples = static_cast<std::int64_t>(dropout.draws.size());
    auto masks = c10::make_intrusive<SampleDropout::Masks>();
    masks->p = dropout_;
    masks->rows = nn::RowContext::plain(nn::Segments::for_batch(samples, embedding.size(0)), values.device(), dropout);
    values = SampleDropout::apply(values, std::move(masks));
    shape.insert(shape.begin(), samples);
  }
  const auto entries = values.view(shape).unbind(-3);
  std::vector<nn::KeyValuePrefix> layers;
  for (std::size_t entry = 0; entry < entries.size(); entry += 2) {
    layers.push_back({entries[entry], entries[entry + 1]});
  }
  return layers;
}

}  // namespace moelora
