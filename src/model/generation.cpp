#include "moelora/model/generation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "moelora/io/error.h"
#include "moelora/model/finite_logits.h"
#include "moelora/model/kv_cache.h"
#include "moelora/model/sampling.h"

namespace moelora::model {
namespace {

constexpr std::int64_t kUsualAnswer = 256;  // tokens

void check_options(const GenerationOptions& options) {
  MOELORA_CHECK(options.max_new_tokens >= 1, "max_new_tokens must be at least 1, found ", options.max_new_tokens);
  MOELORA_CHECK(!options.sample || options.temperature > 0.0, "temperature must be above 0, found ",
                options.temperature, "; for greedy decoding switch sampling off");
  MOELORA_CHECK(options.top_k >= 0, "top_k must be 0 (all tokens) or more, found ", options.top_k);
  MOELORA_CHECK(options.top_p > 0.0 && options.top_p <= 1.0, "top_p must lie in (0, 1], found ", options.top_p);
}

/// A prompt and what has been answered to it so far.
SuspectSequence suspect_sequence(std::int64_t sequence, const Prompt& prompt, const TokenIds& answer,
                                 const nn::RowContext& of_prompts) {
  SuspectSequence suspect;
  suspect.what = detail::concat("prompt ", sequence, ", token ", answer.size(), " of its answer,");
  suspect.sequence = prompt;
  suspect.sequence.ids.insert(suspect.sequence.ids.end(), answer.begin(), answer.end());
  suspect.context = of_prompts.like_segment(sequence, suspect.sequence.length(), prompt.bidirectional_rows);
  return suspect;
}

}  // namespace

nn::Segments segments_of(const std::vector<Prompt>& prompts) {
  std::vector<std::int64_t> lengths, bidirectional;
  for (const Prompt& prompt : prompts) {
    lengths.push_back(prompt.length());
    bidirectional.push_back(prompt.bidirectional_rows);
  }
  return nn::Segments::from_lengths(lengths, bidirectional);
}

std::vector<Generation> generate(CausalLM& model, const std::vector<Prompt>& prompts, const GenerationOptions& options,
                                 const nn::ContextMaker& make_context, const TokenCallback& on_token,
                                 const LogitsCallback& on_logits) {
  check_options(options);
  MOELORA_CHECK(options.streams.empty() || options.streams.size() == prompts.size(),
                "expected a random stream for each of ", prompts.size(), " prompts, found ", options.streams.size());
  std::vector<Generation> results(prompts.size());
  if (prompts.empty()) {
    return results;
  }
  at::NoGradGuard guard;
  const at::Device device = model.device();
  const ModelShape shape = model.shape();
  const auto limit = shape.max_sequence_length;
  std::int64_t longest = 0;
  TokenIds all_ids;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto length = prompts[i].length();
    MOELORA_CHECK(length > 0, "prompt ", i, " is empty");
    MOELORA_CHECK(length < limit, "prompt ", i, " has ", length, " tokens, but the model takes ", limit,
                  " with the answer; shorten it or lower max_source_length");
    longest = std::max(longest, length);
    all_ids.insert(all_ids.end(), prompts[i].ids.begin(), prompts[i].ids.end());
  }
  std::vector<std::int64_t> active(prompts.size());  // prompt index of each row of the batch
  std::iota(active.begin(), active.end(), 0);
  const nn::Segments segments = segments_of(prompts);
  const nn::RowContext of_prompts = make_context ? make_context(segments) : nn::RowContext::plain(segments, device);
  nn::RowContext context = of_prompts;
  const auto prefix_rows = context.prefix.empty() ? 0 : context.prefix.front().length();
  // Room for most answers; the cache grows for longer ones.
  const auto room = std::min(longest + std::min(options.max_new_tokens, kUsualAnswer), limit) + prefix_rows;
  KvCache cache(shape, static_cast<std::int64_t>(prompts.size()), room, model.dtype(), device);

  std::vector<TokenSampler> samplers;
  GenerationOptions choices = options;
  choices.streams.clear();  // each sampler keeps a copy
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    samplers.emplace_back(choices, options.streams.empty() ? i : options.streams[i]);
  }

  at::Tensor ids = at::tensor(all_ids, at::kLong).to(device);
  at::Tensor positions = model.positions(segments).to(device);
  ForwardOptions forward;
  forward.cache = &cache;
  std::vector<std::int64_t> last_rows;
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    last_rows.push_back(segments.offsets[i + 1] - 1);
  }
  forward.output_rows = at::tensor(last_rows, at::kLong).to(device);

  while (true) {
    const at::Tensor hidden = model.hidden(ids, positions, context, forward);
    const at::Tensor logits = model.logits(hidden).to(at::kFloat).cpu();  // [active, vocab]
    require_finite_logits(model, logits, [&](std::int64_t row) {
      const std::int64_t sequence = active[row];
      return suspect_sequence(sequence, prompts[sequence], results[sequence].ids, of_prompts);
    });
    if (on_logits) {
      on_logits(logits, active);
    }
    std::vector<std::int64_t> next_ids;
    std::vector<std::int64_t> kept;
    for (std::size_t row = 0; row < active.size(); ++row) {
      const auto sequence = active[row];
      Generation& result = results[sequence];
      const std::int64_t token = samplers[sequence].next(logits[static_cast<std::int64_t>(row)]);
      if (token == options.eos_id) {
        result.finished = true;
        continue;
      }
      result.ids.push_back(token);
      if (on_token) {
        on_token(sequence, token);
      }
      const auto made = static_cast<std::int64_t>(result.ids.size());
      if (made < options.max_new_tokens && prompts[sequence].length() + made < limit) {
        kept.push_back(static_cast<std::int64_t>(row));
        next_ids.push_back(token);
      }
    }
    if (kept.empty()) {
      return results;
    }
    if (kept.size() < active.size()) {
      cache.keep(kept);
      std::vector<std::int64_t> still;
      for (const std::int64_t row : kept) {
        still.push_back(active[row]);
      }
      active = std::move(still);
    }
    // From here on each sequence adds one row.
    context = context.next_rows(kept);
    ids = at::tensor(next_ids, at::kLong).to(device);
    std::vector<at::Tensor> columns;
    for (const std::int64_t sequence : active) {
      const Prompt& prompt = prompts[sequence];
      const auto index = prompt.length() + static_cast<std::int64_t>(results[sequence].ids.size()) - 1;
      columns.push_back(model.position_at(prompt.bidirectional_rows, index));
    }
    positions = at::cat(columns, 1).to(device);
    forward.output_rows = at::Tensor();
  }
}

}  // namespace moelora::model
