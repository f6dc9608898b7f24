#include "moelora/eval/resampling.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "eval/samples.h"
#include "moelora/data/random.h"
#include "moelora/io/error.h"

namespace moelora::eval {
namespace {

NumberedLabels numbered(const LabelColumns& columns) {
  std::map<std::string, std::int32_t> numbers;
  for (const auto* labels : {&columns.truth, &columns.answers}) {
    for (const std::string& label : *labels) numbers.emplace(label, 0);
  }
  NumberedLabels result;
  for (auto& [label, number] : numbers) number = result.labels++;
  for (std::size_t i = 0; i < columns.truth.size(); ++i) {
    result.samples.push_back({numbers[columns.truth[i]], numbers[columns.answers[i]]});
  }
  return result;
}

TaskSamples task_samples(const Samples& samples, const Segmenter& segmenter) {
  const ParsedSamples parsed = parse_samples(samples);
  TaskSamples result{samples.task, samples.metric, {}};
  switch (samples.metric) {
    case Metric::micro_f1:
    case Metric::macro_f1:
    case Metric::weighted_f1:
    case Metric::accuracy:
    case Metric::choice_accuracy:
    case Metric::exact_match:
      result.parts = numbered(labels_of(samples, parsed));
      break;
    case Metric::item_f1:
    case Metric::set_f1: {
      std::vector<ItemCounts> items;
      for (std::size_t i = 0; i < samples.count(); ++i) {
        items.push_back(item_counts(samples.metric, parsed.truth[i], parsed.answers[i]));
      }
      result.parts = std::move(items);
      break;
    }
    case Metric::rouge_l:
    case Metric::section_rouge_l:
    case Metric::benchmark_rouge_l:
    case Metric::benchmark_section_rouge_l: {
      std::vector<WeightedValue> values;
      for (std::size_t i = 0; i < samples.count(); ++i) {
        const TextScore score = text_score(samples.metric, parsed.truth[i], parsed.answers[i], segmenter);
        values.push_back({score.sum.rouge_l.f, score.weight});
      }
      result.parts = std::move(values);
      break;
    }
  }
  return result;
}

using Indices = std::span<const std::int32_t>;

double resampled_score(const std::vector<ItemCounts>& items, Metric, Indices samples) {
  ItemCounts sum;
  for (const std::int32_t i : samples) sum += items[static_cast<std::size_t>(i)];
  return item_f1(sum).f1;
}

double resampled_score(const std::vector<WeightedValue>& values, Metric, Indices samples) {
  WeightedValue total{0, 0};
  for (const std::int32_t i : samples) {
    total.sum += values[static_cast<std::size_t>(i)].sum;
    total.weight += values[static_cast<std::size_t>(i)].weight;
  }
  return total.weight == 0 ? 0.0 : total.sum / total.weight;
}

double resampled_score(const NumberedLabels& labels, Metric metric, Indices samples) {
  if (metric == Metric::micro_f1 || metric == Metric::accuracy || metric == Metric::choice_accuracy ||
      metric == Metric::exact_match) {
    std::int64_t right = 0;
    for (const std::int32_t i : samples) {
      const auto& [truth, answer] = labels.samples[static_cast<std::size_t>(i)];
      right += truth == answer ? 1 : 0;
    }
    return static_cast<double>(right) / static_cast<double>(samples.size());
  }
  std::vector<LabelCounts> counts(static_cast<std::size_t>(labels.labels));
  for (const std::int32_t i : samples) {
    const auto& [truth, answer] = labels.samples[static_cast<std::size_t>(i)];
    ++counts[static_cast<std::size_t>(truth)].truth;
    ++counts[static_cast<std::size_t>(answer)].answered;
    if (truth == answer) ++counts[static_cast<std::size_t>(truth)].both;
  }
  double sum = 0;
  double total = 0;
  for (const LabelCounts& label : counts) {
    if (label.truth + label.answered == 0) continue;
    const double weight = metric == Metric::weighted_f1 ? static_cast<double>(label.truth) : 1.0;
    sum += weight * label_f1(label);
    total += weight;
  }
  return sum / total;
}

std::vector<std::int32_t> all_samples(std::int32_t count) {
  std::vector<std::int32_t> samples(static_cast<std::size_t>(count));
  std::iota(samples.begin(), samples.end(), 0);
  return samples;
}

std::vector<std::size_t> order_by_seed(const std::vector<std::uint64_t>& seeds) {
  std::vector<std::size_t> order(seeds.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return seeds[a] < seeds[b]; });
  return order;
}

void check_runs(const std::vector<BootstrapRow>& rows, const ScoredRun& first) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    MOELORA_CHECK(rows[i].seeds.size() == rows[i].runs.size(), "expected one run per seed in row ", i + 1, ", found ",
                  rows[i].runs.size(), " runs and ", rows[i].seeds.size(), " seeds");
    for (const ScoredRun& run : rows[i].runs) {
      const bool same = std::equal(
          run.tasks().begin(), run.tasks().end(), first.tasks().begin(), first.tasks().end(),
          [](const TaskSamples& a, const TaskSamples& b) { return a.task == b.task && a.count() == b.count(); });
      MOELORA_CHECK(same, "expected all runs to be scored on the same samples, found others in row ", i + 1,
                    ": score them against the same references");
    }
  }
}

const ScoredRun* first_run(const std::vector<BootstrapRow>& rows) {
  const auto found = std::find_if(rows.begin(), rows.end(), [](const BootstrapRow& row) { return !row.runs.empty(); });
  return found == rows.end() ? nullptr : &found->runs.front();
}

// Between the two nearest order statistics.
double quantile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - std::floor(place)) * (sorted[above] - sorted[below]);
}

constexpr std::uint64_t kRunStreams = 1ull << 32;  // apart from the tasks' streams

}  // namespace

std::int32_t TaskSamples::count() const {
  if (const auto* labels = std::get_if<NumberedLabels>(&parts))
    return static_cast<std::int32_t>(labels->samples.size());
  if (const auto* items = std::get_if<std::vector<ItemCounts>>(&parts)) return static_cast<std::int32_t>(items->size());
  return static_cast<std::int32_t>(std::get<std::vector<WeightedValue>>(parts).size());
}

ScoredRun ScoredRun::from(const std::vector<data::Record>& references, const std::vector<data::Record>& predictions,
                          const Scorer& scorer, const Segmenter& segmenter) {
  MOELORA_CHECK(!references.empty(), "expected records to score, found none: check the data file");
  ScoredRun run;
  run.segmentation_ = segmentation_of(scorer, segmenter);
  for (const Samples& samples : samples_by_task(references, predictions, scorer)) {
    run.tasks_.push_back(task_samples(samples, segmenter));
  }
  return run;
}

double ScoredRun::score(std::size_t task, Indices samples) const {
  if (samples.empty()) return 0.0;
  const TaskSamples& of_task = tasks_.at(task);
  return std::visit([&](const auto& parts) { return resampled_score(parts, of_task.metric, samples); }, of_task.parts);
}

double ScoredRun::score(std::size_t task) const { return score(task, all_samples(tasks_.at(task).count())); }

double ScoredRun::average() const {
  double sum = 0;
  for (std::size_t task = 0; task < tasks_.size(); ++task) sum += score(task);
  return tasks_.empty() ? 0.0 : sum / static_cast<double>(tasks_.size());
}

Bootstrap::Bootstrap(const std::vector<BootstrapRow>& rows, const BootstrapOptions& options)
    : options_(options), rows_(rows.size()) {
  MOELORA_CHECK(options.resamples > 0, "expected at least one resample, found ", options.resamples);
  MOELORA_CHECK(options.level > 0 && options.level < 1, "expected a level between 0 and 1, found ", options.level);
  const ScoredRun* first = first_run(rows);
  if (first == nullptr) return;
  check_runs(rows, *first);
  tasks_ = first->tasks().size();
  const auto resamples = static_cast<std::size_t>(options.resamples);
  std::vector<const ScoredRun*> scored;  // in the order of `resampled`
  std::vector<ResampledRun*> resampled;
  for (std::size_t row = 0; row < rows.size(); ++row) {
    rows_[row].resize(rows[row].runs.size());
    const std::vector<std::size_t> order = order_by_seed(rows[row].seeds);
    for (std::size_t place = 0; place < order.size(); ++place) {
      ResampledRun& run = rows_[row][place];
      run.seed = rows[row].seeds[order[place]];
      scored.push_back(&rows[row].runs[order[place]]);
      resampled.push_back(&run);
      for (std::size_t task = 0; task < tasks_; ++task) {
        run.tasks.push_back({scored.back()->score(task), std::vector<double>(resamples)});
      }
    }
  }
  std::vector<std::int32_t> drawn;
  for (std::size_t resample = 0; resample < resamples; ++resample) {
    for (std::size_t task = 0; task < tasks_; ++task) {
      const auto count = static_cast<std::uint64_t>(first->tasks()[task].count());
      data::SplitMix64 random = data::stream(options.seed, resample, task);
      drawn.resize(count);
      for (std::int32_t& sample : drawn) sample = static_cast<std::int32_t>(random.below(count));
      for (std::size_t run = 0; run < scored.size(); ++run) {
        resampled[run]->tasks[task].resamples[resample] = scored[run]->score(task, drawn);
      }
    }
  }
}

Bootstrap::Runs Bootstrap::common_runs(const std::vector<ResampledRun>& row, const std::vector<ResampledRun>& other) {
  Runs common;
  for (const ResampledRun& run : row) {
    const bool is_common = std::any_of(other.begin(), other.end(), [&](const auto& o) { return o.seed == run.seed; });
    if (is_common) common.push_back(&run);
  }
  return common;
}

// Runs of the same seeds are drawn alike, whatever row they are of.
Bootstrap::Resampled Bootstrap::mean_of(const Runs& runs, std::size_t column) const {
  const std::size_t first = column == tasks_ ? 0 : column;
  const std::size_t end = column == tasks_ ? tasks_ : column + 1;
  const auto terms = static_cast<double>(runs.size() * (end - first));
  Resampled mean{0, std::vector<double>(static_cast<std::size_t>(options_.resamples))};
  std::uint64_t stream = 0;  // a hash of the seeds
  for (const ResampledRun* run : runs) {
    stream = data::stream(stream, run->seed, 1).next();
    for (std::size_t task = first; task < end; ++task) mean.value += run->tasks.at(task).value / terms;
  }
  for (std::size_t resample = 0; resample < mean.resamples.size(); ++resample) {
    // One stream for all tasks: a run is drawn with all its tasks.
    data::SplitMix64 random = data::stream(options_.seed, resample, kRunStreams ^ stream);
    double sum = 0;
    for (std::size_t i = 0; i < runs.size(); ++i) {
      const ResampledRun& drawn = *runs[random.below(runs.size())];
      for (std::size_t task = first; task < end; ++task) sum += drawn.tasks[task].resamples[resample];
    }
    mean.resamples[resample] = sum / terms;
  }
  return mean;
}

Interval Bootstrap::interval_of(double value, std::vector<double> resamples) const {
  std::sort(resamples.begin(), resamples.end());
  const double tail = (1 - options_.level) / 2;
  return {value, quantile(resamples, tail), quantile(resamples, 1 - tail)};
}

std::optional<Interval> Bootstrap::interval(std::size_t row, std::size_t column) const {
  if (rows_.at(row).empty()) return std::nullopt;
  Resampled mean = mean_of(common_runs(rows_[row], rows_[row]), column);
  return interval_of(mean.value, std::move(mean.resamples));
}

std::optional<Difference> Bootstrap::column_difference(std::size_t row, std::size_t baseline,
                                                       std::size_t column) const {
  if (rows_.at(row).empty() || rows_.at(baseline).empty()) return std::nullopt;
  Runs runs = common_runs(rows_[row], rows_[baseline]);
  Runs others = common_runs(rows_[baseline], rows_[row]);
  if (runs.empty()) {
    runs = common_runs(rows_[row], rows_[row]);
    others = common_runs(rows_[baseline], rows_[baseline]);
  }
  const Resampled mine = mean_of(runs, column);
  const Resampled other = mean_of(others, column);
  std::vector<double> differences(mine.resamples.size());
  std::transform(mine.resamples.begin(), mine.resamples.end(), other.resamples.begin(), differences.begin(),
                 std::minus<>());
  const auto not_above = std::count_if(differences.begin(), differences.end(), [](double d) { return d <= 0; });
  const double share = static_cast<double>(not_above) / static_cast<double>(differences.size());
  return Difference{interval_of(mine.value - other.value, std::move(differences)), share,
                    static_cast<std::int64_t>(std::min(runs.size(), others.size()))};
}

std::optional<Interval> Bootstrap::score(std::size_t row, std::size_t task) const { return interval(row, task); }
std::optional<Interval> Bootstrap::average(std::size_t row) const { return interval(row, tasks_); }
std::optional<Difference> Bootstrap::difference(std::size_t row, std::size_t baseline, std::size_t task) const {
  return column_difference(row, baseline, task);
}
std::optional<Difference> Bootstrap::average_difference(std::size_t row, std::size_t baseline) const {
  return column_difference(row, baseline, tasks_);
}

}  // namespace moelora::eval
