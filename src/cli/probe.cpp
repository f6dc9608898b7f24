#include "cli/probe.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "moelora/io/error.h"
#include "moelora/io/finite.h"
#include "moelora/model/finite_logits.h"
#include "moelora/model/generation.h"

namespace moelora::cli {

Probe::Probe(const model::Tokenizer& tokenizer)
    : texts{"患者三天前受凉后出现咳嗽、发热，体温最高39℃。", "诊断：上呼吸道感染"} {
  for (const std::string& text : texts) {
    prompts.push_back(tokenizer.build_prompt(tokenizer.encode_plain(text)));
  }
  segments = model::segments_of(prompts);
}

at::Tensor probe_logits(model::CausalLM& model, const Probe& probe, const nn::ContextMaker& make_context) {
  at::NoGradGuard no_grad;
  model::TokenIds all;
  for (const model::Prompt& prompt : probe.prompts) {
    all.insert(all.end(), prompt.ids.begin(), prompt.ids.end());
  }
  const at::Device device = model.device();
  const nn::RowContext context = make_context(probe.segments);
  const at::Tensor hidden =
      model.hidden(at::tensor(all, at::kLong).to(device), model.positions(probe.segments).to(device), context);
  const at::Tensor logits = model.logits(hidden).to(at::kFloat).cpu();
  model::require_finite_logits(model, logits, [&](std::int64_t row) {
    const auto& offsets = probe.segments.offsets;
    const auto i = std::upper_bound(offsets.begin(), offsets.end(), row) - offsets.begin() - 1;
    const model::Prompt& prompt = probe.prompts[static_cast<std::size_t>(i)];
    return model::SuspectSequence{"the probe prompt \"" + probe.texts[static_cast<std::size_t>(i)] + "\"", prompt,
                                  context.like_segment(i, prompt.length(), prompt.bidirectional_rows)};
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
