// Greedy decoding of model S: one sequence beside the speed at which this machine reads memory, and eight tasks in one
// batch beside a batch of the merged model.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <chrono>
#include <optional>

#include "cases.h"
#include "model_s.h"
#include "moelora/io/error.h"
#include "moelora/io/huge_pages.h"
#include "moelora/model/generation.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace moelora::bench {
namespace {

constexpr std::int64_t kPrompt = 64;
constexpr std::int64_t kSteps = 32;

float sum_plainly(const float* from, std::int64_t count) {
  float sums[16] = {};
  for (std::int64_t i = 0; i + 16 <= count; i += 16) {
    for (int j = 0; j < 16; ++j) {
      sums[j] += from[i + j];
    }
  }
  return sums[0] + sums[7] + sums[15];
}

#if defined(__x86_64__)
// One straight line, eight sums, 4 KiB fetched ahead: the fastest of the forms tried (one to sixteen streams, fetching
// 0 to 8 KiB ahead).
__attribute__((target("avx512f"))) float sum_widely(const float* from, std::int64_t count) {
  __m512 sums[8];
  for (__m512& sum : sums) {
    sum = _mm512_setzero_ps();
  }
  for (std::int64_t i = 0; i + 128 <= count; i += 128) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const float* at = from + i + 16 * j;
      _mm_prefetch(reinterpret_cast<const char*>(at) + 4096, _MM_HINT_T0);
      sums[j] = _mm512_add_ps(sums[j], _mm512_loadu_ps(at));
    }
  }
  for (int j = 1; j < 8; ++j) {
    sums[0] = _mm512_add_ps(sums[0], sums[j]);
  }
  float lanes[16];
  _mm512_storeu_ps(lanes, sums[0]);
  return lanes[0] + lanes[7] + lanes[15];
}
#endif

float sum_of(const float* from, std::int64_t count) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) {
    return sum_widely(from, count);
  }
#endif
  return sum_plainly(from, count);
}

// Reads a buffer once with all threads.
double read_seconds(const at::Tensor& buffer) {
  const auto* data = buffer.const_data_ptr<float>();
  std::vector<float> sums(static_cast<std::size_t>(at::get_num_threads()));
  const auto each = buffer.numel() / at::get_num_threads();
  const double seconds = seconds_of([&] {
    at::parallel_for(0, at::get_num_threads(), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        sums[static_cast<std::size_t>(i)] = sum_of(data + i * each, each);
      }
    });
  });
  MOELORA_CHECK(sums.front() > 0.0f, "the sum of ones is 0");
  return seconds;
}

// The numbers that each step reads: every weight but the embedding table's.
std::int64_t weights_read(model::ChatGlm& model) {
  std::int64_t count = 0;
  for (const auto& entry : model->named_parameters()) {
    count += entry.key().find("word_embeddings") == std::string::npos ? entry.value().numel() : 0;
  }
  return count;
}

class Decoder {
 public:
  Decoder(model::ChatGlm model, std::int64_t batch) : model_(std::move(model)) {
    for (std::int64_t i = 0; i < batch; ++i) {
      prompts_.push_back({random_example(kPrompt, kPrompt - 1, 0, static_cast<std::uint64_t>(i)).ids, kPrompt - 1});
    }
  }

  /// Seconds from the first new token to the last, by step.
  double seconds_per_step(const nn::ContextMaker& context) {
    using Clock = std::chrono::steady_clock;
    model::GenerationOptions options;
    options.max_new_tokens = kSteps + 1;
    std::optional<Clock::time_point> first, last;
    model::generate(*model_, prompts_, options, context, [&](std::int64_t prompt, std::int64_t) {
      if (prompt == 0) {
        last = Clock::now();
        first = first ? first : last;
      }
    });
    return std::chrono::duration<double>(*last - *first).count() / kSteps;
  }

 private:
  model::ChatGlm model_;
  std::vector<model::Prompt> prompts_;
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

}  // namespace

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

  const std::int64_t numbers = weights_read(model);
  const double bytes = 4.0 * static_cast<double>(numbers);
  const at::Tensor buffer = io::empty_on_huge_pages({numbers}, at::kFloat).fill_(1.0);
  const auto read = [&] {
    double seconds = 0.0;
    for (std::int64_t i = 0; i < kSteps; ++i) {
      seconds += read_seconds(buffer);
    }
    return seconds / kSteps;
  };
  Decoder single(model, 1);
  const Rounds alone = paired(options, read, [&] { return merged(single); });
  std::vector<double> with_adapter;
  for (int round = 0; round < options.rounds; ++round) {
    with_adapter.push_back(unmerged(single, {0}));
  }
  const double token = median_interval(alone.second).median;
  report({8, "S: weights read by greedy decoding, batch 1, merged / read bandwidth", "", 0.70, 0.80, Better::larger},
         median_interval(alone.ratios),
         {{"ours", "merged, batch 1"},
          {"ours_seconds", token},
          {"yardstick", "reading as many bytes"},
          {"yardstick_seconds", median_interval(alone.first).median},
          {"bandwidth_gb_per_s", bytes / median_interval(alone.first).median / 1e9},
          {"tokens_per_second", 1.0 / token},
          {"tokens_per_second_unmerged", 1.0 / median_interval(with_adapter).median},
          {"rounds", alone.ratios.size()},
          {"threads", at::get_num_threads()}});

  Decoder eight(model, 8);
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
