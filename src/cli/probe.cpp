#include "cli/probe.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "moelora/io/error.h"
#include "moelora/io/finite.h"
#include "moelora/model/finite_logits.h"

namespace moelora::cli {

Probe::Probe(const model::Tokenizer& tokenizer)
    : texts{"患者三天前受凉后出现咳嗽、发热，体温最高39℃。", "诊断：上呼吸道感染"} {
  std::vector<std::int64_t> lengths, contexts;
  for (const std::string& text : texts) {
    const model::TokenIds source = tokenizer.encode(text);
    ids.push_back(tokenizer.build_prompt(source));
    lengths.push_back(static_cast<std::int64_t>(ids.back().size()));
    contexts.push_back(tokenizer.context_length(static_cast<std::int64_t>(source.size())));
  }
  segments = nn::Segments::from_lengths(lengths, contexts);
}

at::Tensor probe_logits(model::CausalLM& model, const Probe& probe, const ProbeContext& context) {
  at::NoGradGuard no_grad;
  model::TokenIds all;
  for (const model::TokenIds& ids : probe.ids) {
    all.insert(all.end(), ids.begin(), ids.end());
  }
  const at::Device device = model.device();
  const at::Tensor hidden = model.hidden(at::tensor(all, at::kLong).to(device),
                                         model.positions(probe.segments).to(device), context(probe.segments));
  const at::Tensor logits = model.logits(hidden).to(at::kFloat).cpu();
  model::require_finite_logits(model, logits, [&](std::int64_t row) {
    const auto& offsets = probe.segments.offsets;
    const auto i =
        static_cast<std::size_t>(std::upper_bound(offsets.begin(), offsets.end(), row) - offsets.begin() - 1);
    const std::int64_t rows = probe.segments.context[i];
    return model::SuspectSequence{"the probe prompt \"" + probe.texts[i] + "\"", probe.ids[i], rows,
                                  context(nn::Segments::from_lengths({probe.segments.length(i)}, {rows}))};
  });
  return logits;
}

void require_finite_weights(const model::CausalLM& model, const std::filesystem::path& folder) {
  std::string text;
  std::size_t count = 0;
  for (const auto& [name, tensor] : model::base_tensors(model)) {
    const std::string problem = io::describe_not_finite(tensor);
    if (!problem.empty() && ++count <= 5) {
      text += "\n  " + name + ": " + problem;
    }
  }
  if (count > 0) {
    throw io::NotFinite(detail::concat(folder.string(), ": ", count, " tensors hold numbers that are not finite:", text,
                                       "\nthe model is damaged or its training diverged; use another copy"));
  }
}

}  // namespace moelora::cli
