// Greedy decoding of model S: one sequence beside the speed at which this machine can read the weights, and eight tasks
// in one batch beside a batch of the merged model.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <memory>
#include <optional>

#include "cases.h"
#include "model_s.h"
#include "moelora/model/generation.h"
#include "reading.h"
#include "small_decoder.h"

namespace moelora::bench {
namespace {

constexpr std::int64_t kPrompt = 64;
constexpr std::int64_t kSteps = 32;

// What each step reads: every weight but the embedding table.
std::vector<at::Tensor> weights_read(model::CausalLM& model) {
  std::vector<at::Tensor> weights;
  for (const auto& entry : model.named_parameters()) {
    if (entry.key().find("embed") == std::string::npos) {
      weights.push_back(entry.value().detach());
    }
  }
  return weights;
}

class Decoder {
 public:
  Decoder(std::shared_ptr<model::CausalLM> model, std::int64_t batch) : model_(std::move(model)) {
    for (std::int64_t i = 0; i < batch; ++i) {
      prompts_.push_back({random_example(kPrompt, kPrompt - 1, 0, static_cast<std::uint64_t>(i)).ids, kPrompt - 1});
    }
  }

  /// Seconds from the first new token to the last, by step; the fastest step of all so far is kept.
  double seconds_per_step(const nn::ContextMaker& context) {
    using Clock = std::chrono::steady_clock;
    model::GenerationOptions options;
    options.max_new_tokens = kSteps + 1;
    std::optional<Clock::time_point> first, last;
    model::generate(*model_, prompts_, options, context, [&](std::int64_t prompt, std::int64_t) {
      if (prompt == 0) {
        const auto now = Clock::now();
        if (last) {
          fastest_ = std::min(fastest_, std::chrono::duration<double>(now - *last).count());
        }
        last = now;
        first = first ? first : last;
      }
    });
    return std::chrono::duration<double>(*last - *first).count() / kSteps;
  }

  double fastest_step() const { return fastest_; }

 private:
  std::shared_ptr<model::CausalLM> model_;
  std::vector<model::Prompt> prompts_;
  double fastest_ = std::numeric_limits<double>::infinity();
};

struct Rounds {
  std::vector<double> ratios, first, second;
};

// Calls both in pairs whose order alternates; doubles the rounds where the interval is wider than 5 %.
Rounds paired(const Options& options, const std::function<double()>& first, const std::function<double()>& second) {
  Rounds rounds;
  first();
  second();
  int wanted = options.rounds;
  for (int round = 0; round < wanted; ++round) {
    double a = round % 2 == 0 ? first() : 0.0;
    const double b = second();
    a = round % 2 == 0 ? a : first();
    rounds.first.push_back(a);
    rounds.second.push_back(b);
    rounds.ratios.push_back(a / b);
    if (round + 1 == options.rounds) {
      const Interval so_far = median_interval(rounds.ratios);
      wanted = so_far.high - so_far.low > 0.05 * so_far.median ? 2 * options.rounds : wanted;
    }
  }
  return rounds;
}

// The limit is the fastest pass over these very weights that was seen in any round, by any reader or by a step of the
// decoder itself: a step reads all of them and does more, so no median of steps can be above it.
void report_reading(const Bar& bar, model::CausalLM& model, Decoder& single, const Options& options,
                    const std::function<double()>& merged, const std::function<double()>& unmerged) {
  ReadingLimit limit(weights_read(model));
  std::vector<double> steps;
  merged();
  for (int round = 0; round < options.rounds; ++round) {
    limit.measure();
    steps.push_back(merged());
  }
  limit.was_read_in(single.fastest_step(), "a step of the decoder");
  std::vector<double> with_adapter;
  for (int round = 0; round < options.rounds; ++round) {
    with_adapter.push_back(unmerged());
  }
  const Interval token = median_interval(steps);
  report(bar, {limit.seconds() / token.median, limit.seconds() / token.high, limit.seconds() / token.low},
         {{"ours", "merged, batch 1"},
          {"ours_seconds", token.median},
          {"yardstick", "the fastest of all readings of these weights: " + limit.fastest()},
          {"yardstick_seconds", limit.seconds()},
          {"bandwidth_gb_per_s", limit.bytes() / limit.seconds() / 1e9},
          {"tokens_per_second", 1.0 / token.median},
          {"tokens_per_second_unmerged", 1.0 / median_interval(with_adapter).median},
          {"rounds", steps.size()},
          {"threads", at::get_num_threads()}});
}

}  // namespace

void small_decoder_decoding(const Options& options) {
  model::Llama model = small_decoder();
  Adapter adapter = small_decoder_adapter(model);
  adapter->eval();
  Decoder single(model.ptr(), 1);
  report_reading(
      {16,
       "SmolLM2's shape: weights read by greedy decoding, batch 1, merged / read bandwidth",
       "",
       0.75,
       {},
       Better::larger},
      *model, single, options,
      [&] {
        adapter->disable();
        return single.seconds_per_step({});
      },
      [&] {
        adapter->enable();
        return single.seconds_per_step(for_tasks(adapter, single_tasks({0})));
      });
}

void decoding(const Options& options) {
  model::ChatGlm model = model_s();
  MoeLoraConfig config = adapter_config_s();
  Adapter adapter = adapter_s(model, config, "default", 8);
  adapter->eval();
  const auto merged = [&](Decoder& decoder) {
    adapter->disable();
    return decoder.seconds_per_step({});
  };
  const auto unmerged = [&](Decoder& decoder, std::vector<std::int64_t> tasks) {
    adapter->enable();
    return decoder.seconds_per_step(for_tasks(adapter, single_tasks(tasks)));
  };

  Decoder single(model.ptr(), 1);
  report_reading(
      {8, "S: weights read by greedy decoding, batch 1, merged / read bandwidth", "", 0.70, 0.80, Better::larger},
      *model, single, options, [&] { return merged(single); }, [&] { return unmerged(single, {0}); });

  Decoder eight(model.ptr(), 8);
  const Rounds batch = paired(
      options,
      [&] {
        return unmerged(eight, {0, 1, 2, 3, 4, 5, 6, 7});
      },
      [&] { return merged(eight); });
  report({9, "S: decoding 8 tasks in a batch of 8, unmerged / one task merged", "", 1.10, 1.03},
         median_interval(batch.ratios),
         {{"ours", "8 tasks unmerged"},
          {"ours_seconds", median_interval(batch.first).median},
          {"yardstick", "merged"},
          {"yardstick_seconds", median_interval(batch.second).median},
          {"rounds", batch.ratios.size()},
          {"threads", at::get_num_threads()}});
}

}  // namespace moelora::bench
