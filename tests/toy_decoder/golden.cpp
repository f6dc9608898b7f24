// Recorded outputs of the toy decoder, computed by plain operations from the weights alone: padded, with a mask, every
// key/value head repeated. Usage: toy_golden MODEL_FOLDER writes MODEL_FOLDER/golden.safetensors.

#include <ATen/ATen.h>

#include <cmath>
#include <cstdio>
#include <filesystem>

#include "byte_tokenizer.h"
#include "decoder.h"
#include "moelora/io/safetensors.h"

namespace {

using Weights = std::map<std::string, at::Tensor>;

at::Tensor normed(const at::Tensor& x, const at::Tensor& weight) {
  return x / at::sqrt(x.square().mean(-1, true) + 1e-6) * weight;
}

// x [T, heads, d]: column i turns with column i + d/2 by position · 10000^(-2i/d).
at::Tensor turned(const at::Tensor& x) {
  const auto d = x.size(2);
  const at::Tensor frequency = at::pow(10000.0, -at::arange(0, d, 2, at::kDouble) / static_cast<double>(d));
  const at::Tensor angle = (at::arange(x.size(0), at::kDouble).unsqueeze(1) * frequency).unsqueeze(1).to(at::kFloat);
  const at::Tensor a = x.narrow(2, 0, d / 2), b = x.narrow(2, d / 2, d / 2);
  return at::cat({a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()}, 2);
}

// One sequence, ids [T]: the embedding's output, each block's, the last norm's.
std::vector<at::Tensor> states_of(const Weights& w, const toy::Config& c, const at::Tensor& ids) {
  at::Tensor x = w.at("embed.weight").index_select(0, ids);
  std::vector<at::Tensor> states{x};
  const auto rows = ids.size(0);
  const at::Tensor later = at::ones({rows, rows}, at::kBool).triu(1);
  for (std::int64_t layer = 0; layer < c.layers; ++layer) {
    const std::string prefix = "blocks." + std::to_string(layer) + ".";
    const auto of = [&](const char* name) { return w.at(prefix + name); };
    const at::Tensor n = normed(x, of("attention_norm"));
    const at::Tensor q = turned(at::mm(n, of("q.weight").t()).view({rows, c.heads, c.head_dim}));
    const at::Tensor k = turned(at::mm(n, of("k.weight").t()).view({rows, c.kv_heads, c.head_dim}));
    const at::Tensor v = at::mm(n, of("v.weight").t()).view({rows, c.kv_heads, c.head_dim});
    std::vector<at::Tensor> heads;
    for (std::int64_t head = 0; head < c.heads; ++head) {
      const auto shared = head / (c.heads / c.kv_heads);
      const at::Tensor scores =
          at::mm(q.select(1, head), k.select(1, shared).t()) / std::sqrt(static_cast<double>(c.head_dim));
      heads.push_back(at::mm(at::softmax(scores.masked_fill(later, -INFINITY), 1), v.select(1, shared)));
    }
    const at::Tensor y = x + at::mm(at::cat(heads, 1), of("o.weight").t());
    const at::Tensor u = at::mm(normed(y, of("mlp_norm")), of("up.weight").t());
    x = y + at::mm(u * at::sigmoid(u), of("down.weight").t());
    states.push_back(x);
  }
  states.back() = normed(x, w.at("norm"));
  return states;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: toy_golden MODEL_FOLDER\n");
    return 2;
  }
  const at::NoGradGuard no_grad;
  const std::filesystem::path folder = argv[1];
  Weights weights;
  for (const auto& [name, tensor] : moelora::io::load_safetensors(folder / "model.safetensors")) {
    weights[name] = tensor.to(at::kFloat);
  }
  const toy::Config config;
  const std::vector<std::vector<std::int64_t>> sequences{{72, 105, toy::kAnswer, 33, 34, toy::kEnd},
                                                         {65, 66, 67, 68, toy::kAnswer, 90, toy::kEnd}};
  const std::int64_t columns = 7;
  const auto count = static_cast<std::int64_t>(sequences.size());
  at::Tensor ids = at::full({count, columns}, toy::kPad, at::kLong);
  at::Tensor labels = at::full({count, columns}, -100, at::kLong);
  at::Tensor positions = at::zeros({count, 1, columns}, at::kLong);
  at::Tensor mask = at::ones({count, 1, columns, columns}, at::kByte);
  std::vector<at::Tensor> states(static_cast<std::size_t>(config.layers) + 1);
  for (at::Tensor& state : states) {
    state = at::zeros({count, columns, config.hidden_size});
  }
  at::Tensor logits = at::zeros({count, columns, config.vocab_size});
  std::vector<at::Tensor> losses;
  for (std::int64_t i = 0; i < count; ++i) {
    const at::Tensor one = at::tensor(sequences[static_cast<std::size_t>(i)], at::kLong);
    const auto length = one.size(0), begin = columns - length;  // padded on the left
    ids[i].narrow(0, begin, length).copy_(one);
    positions[i][0].narrow(0, begin, length).copy_(at::arange(length, at::kLong));
    mask[i][0].narrow(0, begin, length).narrow(1, begin, length).copy_(at::ones({length, length}).triu(1));
    const auto found = states_of(weights, config, one);
    for (std::size_t layer = 0; layer < states.size(); ++layer) {
      states[layer][i].narrow(0, begin, length).copy_(found[layer]);
    }
    const at::Tensor rows = at::mm(found.back(), weights.at("head.weight").t());
    logits[i].narrow(0, begin, length).copy_(rows);
    // Recorded outputs have the token that opens the answer as their first label.
    const std::int64_t first = (one == toy::kAnswer).nonzero().item<std::int64_t>();
    labels[i].narrow(0, begin + first, length - first).copy_(one.narrow(0, first, length - first));
    losses.push_back(at::cross_entropy_loss(rows.narrow(0, first - 1, length - first),
                                            one.narrow(0, first, length - first), {}, at::Reduction::None));
  }
  moelora::io::NamedTensors golden{{"left.input_ids", ids},          {"left.labels", labels},
                                   {"left.position_ids", positions}, {"left.attention_mask", mask},
                                   {"left.logits", logits},          {"left.loss", at::cat(losses).mean().view({1})}};
  for (std::size_t layer = 0; layer < states.size(); ++layer) {
    golden.push_back({"left.hidden." + std::to_string(layer), states[layer]});
  }
  moelora::io::save_safetensors(folder / "golden.safetensors", golden);
  return 0;
}
