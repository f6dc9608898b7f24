// Samples per second on real lengths: packed, against padded batches of four on the same path, and against the plain
// form.

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "cases.h"
#include "eager.h"
#include "model_s.h"
#include "moelora/data/batch.h"
#include "moelora/data/record.h"
#include "moelora/model/chatglm/tokenizer.h"

namespace moelora::bench {
namespace {

constexpr std::size_t kPaddedBatch = 4;

// The lengths of real records with random token ids: time depends on nothing else.
std::vector<data::Example> examples_of_real_lengths(const Options& options) {
  data::ReadOptions read;
  read.need_target = true;
  const auto records = data::read_records(options.shared / "data/promptcblue/train.json", read).records;
  const model::ChatGlmTokenizer tokenizer(options.shared / "fixtures/tokenizer");
  data::EncodeOptions encode;
  encode.max_source_length = 1024;
  encode.max_target_length = 196;
  std::vector<data::Example> examples;
  for (std::size_t i = 0; i < std::min<std::size_t>(records.size(), 2000); ++i) {
    const data::Example real = data::encode_pair(records[i], 0, tokenizer, encode);
    examples.push_back(random_example(real.length(), real.label_begin, static_cast<std::int64_t>(i % 4), i));
  }
  std::shuffle(examples.begin(), examples.end(), std::mt19937_64(0));  // as a training run draws them
  return examples;
}

// Consecutive samples, another slice for each round.
std::vector<const data::Example*> slice(const std::vector<data::Example>& examples, int round, std::size_t count) {
  std::vector<const data::Example*> chosen;
  for (std::size_t i = 0; i < count; ++i) {
    chosen.push_back(&examples[(static_cast<std::size_t>(round) * count + i) % examples.size()]);
  }
  return chosen;
}

train::StepSamples with_draws(std::vector<const data::Example*> examples) {
  train::StepSamples samples;
  samples.draws.resize(examples.size());
  std::iota(samples.draws.begin(), samples.draws.end(), 0);
  samples.examples = std::move(examples);
  return samples;
}

/// Our own path on a batch whose samples are filled up to the longest one.
void padded_step(model::ChatGlm& model, Adapter& adapter, const std::vector<const data::Example*>& examples,
                 std::int64_t labels_of_step) {
  std::vector<data::Example> filled;
  std::int64_t longest = 0;
  for (const data::Example* example : examples) {
    longest = std::max(longest, example->length());
  }
  std::vector<const data::Example*> pointers;
  filled.reserve(examples.size());
  std::vector<std::int64_t> rows, labels, draws;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    data::Example& example = filled.emplace_back(*examples[i]);
    const auto first = static_cast<std::int64_t>(i) * longest;
    for (std::int64_t row = example.label_begin - 1; row < example.length() - 1; ++row) {
      rows.push_back(first + row);
      labels.push_back(example.ids[static_cast<std::size_t>(row + 1)]);
    }
    example.ids.resize(static_cast<std::size_t>(longest), 3);
    pointers.push_back(&example);
    draws.push_back(static_cast<std::int64_t>(i));
  }
  const data::Batch batch = data::pack(pointers, draws, *model, at::kCPU);
  const nn::RowContext context =
      adapter->context(batch.segments, single_tasks(batch.tasks), nn::DropoutKey{0, batch.draws});
  model::ForwardOptions options;
  options.output_rows = at::tensor(rows, at::kLong);
  const at::Tensor losses = model::token_losses(*model, model->hidden(batch.ids, batch.positions, context, options),
                                                at::tensor(labels, at::kLong));
  losses.backward(at::full_like(losses, 1.0 / static_cast<double>(labels_of_step)));
}

std::vector<std::vector<const data::Example*>> batches_of(const std::vector<const data::Example*>& examples,
                                                          std::size_t size) {
  std::vector<std::vector<const data::Example*>> batches;
  for (std::size_t i = 0; i < examples.size(); i += size) {
    batches.emplace_back(examples.begin() + static_cast<std::ptrdiff_t>(i),
                         examples.begin() + static_cast<std::ptrdiff_t>(std::min(i + size, examples.size())));
  }
  return batches;
}

std::int64_t padded_rows(const std::vector<const data::Example*>& examples) {
  std::int64_t longest = 0;
  for (const data::Example* example : examples) {
    longest = std::max(longest, example->length());
  }
  return longest * static_cast<std::int64_t>(examples.size());
}

// The plain form stores about 4.6 MB for each token of model S: a batch of four is halved until it fits in 12 GB, as
// its user would have to do.
void eager_step(const model::ChatGlm& model, const EagerMoeLora& moelora,
                const std::vector<const data::Example*>& examples) {
  constexpr std::int64_t kMostRows = 2600;
  if (examples.size() > 1 && padded_rows(examples) > kMostRows) {
    for (const auto& half : batches_of(examples, (examples.size() + 1) / 2)) {
      eager_step(model, moelora, half);
    }
    return;
  }
  eager_loss(model, pad(examples), &moelora).backward();
}

}  // namespace

void length_mix(const Options& options) {
  if (!std::filesystem::exists(options.shared / "data/promptcblue/train.json")) {
    const std::string why = "no real records at " + (options.shared / "data/promptcblue/train.json").string();
    report_skipped(5, "real length mix, packed / padded", why);
    report_skipped(6, "real length mix, ours / Eager MOELoRA", why);
    return;
  }
  const std::vector<data::Example> examples = examples_of_real_lengths(options);
  std::int64_t rows = 0;
  std::int64_t padded = 0;
  for (const auto& batch : batches_of(slice(examples, 0, examples.size()), kPaddedBatch)) {
    padded += padded_rows(batch);
    for (const data::Example* example : batch) {
      rows += example->length();
    }
  }
  model::ChatGlm model = model_s();
  Adapter adapter = adapter_s(model, adapter_config_s());
  TrainStep step(model, adapter, kMicroBatchTokens);

  // Samples per second, ours over the other's: the yardstick's time over ours.
  constexpr std::size_t kSlice = 6 * kPaddedBatch;
  const Paired packed = measure_paired(
      [&](int round) {
        adapter->enable();
        const auto chosen = slice(examples, round, kSlice);
        const auto labels = train::label_count(chosen);
        for (const auto& batch : batches_of(chosen, kPaddedBatch)) {
          padded_step(model, adapter, batch, labels);
        }
      },
      [&](int round) { step.run(with_draws(slice(examples, round, kSlice))); }, options);
  nlohmann::ordered_json details = details_of(packed, "padded in batches of 4", "packed");
  details["padded_rows_over_rows"] = static_cast<double>(padded) / static_cast<double>(rows);
  report({5, "real length mix: samples/s, packed / padded in batches of 4", "", 2.0, 2.2, Better::larger}, packed.ratio,
         details);

  constexpr std::size_t kEagerSlice = 2 * kPaddedBatch;  // it takes its time
  EagerMoeLora moelora(model->config(), 8, 16, 4);
  const Paired eager = measure_paired(
      [&](int round) {
        adapter->disable();
        for (const auto& batch : batches_of(slice(examples, round, kEagerSlice), kPaddedBatch)) {
          eager_step(model, moelora, batch);
        }
      },
      [&](int round) { step.run(with_draws(slice(examples, round, kEagerSlice))); }, options);
  report({6, "real length mix: samples/s, ours / Eager MOELoRA", "", 6.0, 9.0, Better::larger}, eager.ratio,
         details_of(eager, "Eager MOELoRA", "packed"));
}

}  // namespace moelora::bench
