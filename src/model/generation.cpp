#include "moelora/model/generation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "model/decode_graph.h"
#include "model/next_tokens.h"
#include "moelora/io/error.h"
#include "moelora/model/finite_logits.h"
#include "moelora/model/kv_cache.h"
#include "nn/move_together.h"

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
  ModelShape shape = model.shape();
  if (options.beyond_longest_sequence) {
    for (const Prompt& prompt : prompts) {
      shape.max_sequence_length = std::max(shape.max_sequence_length, prompt.length() + options.max_new_tokens);
    }
  }
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

  const std::unique_ptr<NextTokens> tokens = make_next_tokens(model, prompts, options);

  ForwardOptions forward;
  forward.cache = &cache;
  std::vector<std::int64_t> last_rows;
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    last_rows.push_back(segments.offsets[i + 1] - 1);
  }
  at::Tensor ids = at::tensor(all_ids, at::kLong);
  at::Tensor positions = model.positions(segments).contiguous();
  forward.output_rows = at::tensor(last_rows, at::kLong);
  nn::move_together({&ids, &positions, &forward.output_rows}, device);

  at::Tensor logits;  // [active, vocab]
  const std::function<void()> step = [&] {
    logits = model.logits(model.hidden(ids, positions, context, forward));
    tokens->choose(logits);
  };
  // Steps that the host takes part in cannot be recorded.
  DecodeGraph graph(tokens->is_on_device() ? make_step_recorder(device) : nullptr);
  for (bool prompt = true;; prompt = false) {
    if (prompt) {
      step();
    } else {
      cache.reserve_next();
      if (graph.run(step, cache.recorded_form())) {
        cache.count_replayed_row();
      }
    }
    const std::vector<std::int64_t> chosen = tokens->read();
    if (chosen.empty()) {
      require_finite_logits(model, logits.to(at::kFloat).cpu(), [&](std::int64_t row) {
        const std::int64_t sequence = active[row];
        return suspect_sequence(sequence, prompts[sequence], results[sequence].ids, of_prompts);
      });
      TORCH_INTERNAL_ASSERT(false, "logits that are finite were found not to be");
    }
    if (on_logits) {
      on_logits(logits.to(at::kFloat).cpu(), active);
    }
    std::vector<std::int64_t> kept;
    for (std::size_t row = 0; row < active.size(); ++row) {
      const auto sequence = active[row];
      Generation& result = results[sequence];
      if (std::find(options.end_ids.begin(), options.end_ids.end(), chosen[row]) != options.end_ids.end()) {
        result.finished = true;
        continue;
      }
      result.ids.push_back(chosen[row]);
      if (on_token) {
        on_token(sequence, chosen[row]);
      }
      const auto made = static_cast<std::int64_t>(result.ids.size());
      if (made < options.max_new_tokens && prompts[sequence].length() + made < limit) {
        kept.push_back(static_cast<std::int64_t>(row));
      }
    }
    if (kept.empty()) {
      return results;
    }
    const bool fewer = kept.size() < active.size();
    if (fewer) {
      cache.keep(kept);
      tokens->keep(kept);
      std::vector<std::int64_t> still;
      for (const std::int64_t row : kept) {
        still.push_back(active[row]);
      }
      active = std::move(still);
    }
    if (fewer || prompt) {  // from here on each sequence adds one row
      context = context.next_rows(kept);
      graph.forget();
    }
    ids = tokens->ids();
    positions = tokens->positions();
    forward.output_rows = at::Tensor();
  }
}

}  // namespace moelora::model
