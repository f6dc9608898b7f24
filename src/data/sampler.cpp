#include "moelora/data/sampler.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "moelora/data/random.h"
#include "moelora/io/error.h"

namespace moelora::data {
namespace {

/// Stream number of the order of an epoch's batches: no stream of samples has it.
constexpr std::uint64_t kBatchOrder = ~0ull;
/// Of the order in which samples of one weight take turns.
constexpr std::uint64_t kTurns = ~0ull - 1;

/// The largest number for which `before` is at most `position`; before(0) is 0, and it never falls.
template <typename Before>
std::int64_t last_at_or_below(const Before& before, std::int64_t position) {
  std::int64_t low = 0;
  std::int64_t high = 1;
  while (before(high) <= position) {
    high *= 2;
  }
  while (high - low > 1) {  // before(low) <= position < before(high)
    const std::int64_t middle = low + (high - low) / 2;
    (before(middle) <= position ? low : high) = middle;
  }
  return low;
}

}  // namespace

Sampler::Sampler(std::vector<std::int64_t> task_of_sample, std::int64_t batch_size, Batching batching,
                 std::uint64_t seed, std::vector<double> weights)
    : weights_(std::move(weights)),
      pass_size_(static_cast<double>(task_of_sample.size())),
      batch_size_(batch_size),
      batching_(batching),
      seed_(seed) {
  const auto samples = static_cast<std::int64_t>(task_of_sample.size());
  MOELORA_CHECK(samples > 0, "expected at least one sample to draw from, found none");
  MOELORA_CHECK(batch_size > 0, "expected batch_size of at least 1, found ", batch_size);
  const std::int64_t largest = *std::max_element(task_of_sample.begin(), task_of_sample.end());
  streams_.resize(batching == Batching::random ? 1 : static_cast<std::size_t>(largest + 1));
  for (std::int64_t sample = 0; sample < samples; ++sample) {
    const std::int64_t task = task_of_sample[static_cast<std::size_t>(sample)];
    MOELORA_CHECK(task >= 0, "expected task indices of 0 or more, found ", task);
    streams_[batching == Batching::random ? 0 : static_cast<std::size_t>(task)].push_back(sample);
  }
  passes_.resize(streams_.size());
  if (std::all_of(weights_.begin(), weights_.end(), [](double weight) { return weight == 1.0; })) {
    weights_.clear();
  } else {
    MOELORA_CHECK(weights_.size() == task_of_sample.size(), "expected a weight for each of ", samples,
                  " samples, found ", weights_.size());
    spread_phases();
    pass_size_ = std::accumulate(weights_.begin(), weights_.end(), 0.0);
  }
}

void Sampler::spread_phases() {
  std::map<double, std::vector<std::int64_t>> of_weight;
  for (std::size_t sample = 0; sample < weights_.size(); ++sample) {
    MOELORA_CHECK(weights_[sample] >= kLeastWeight && weights_[sample] <= kMostWeight, "expected weights from ",
                  kLeastWeight, " to ", kMostWeight, ", found ", weights_[sample]);
    of_weight[weights_[sample]].push_back(static_cast<std::int64_t>(sample));
  }
  phases_.resize(weights_.size());
  std::uint64_t group = 0;
  for (auto& [weight, samples] : of_weight) {
    shuffle(samples, stream(seed_, kTurns, group++));
    for (std::size_t place = 0; place < samples.size(); ++place) {
      phases_[static_cast<std::size_t>(samples[place])] =
          (static_cast<double>(place) + 0.5) / static_cast<double>(samples.size());
    }
  }
}

/// How often a sample is drawn in the passes before `pass`.
std::int64_t Sampler::times_before(std::int64_t sample, std::int64_t pass) const {
  const auto place = static_cast<std::size_t>(sample);
  return static_cast<std::int64_t>(std::floor(weights_[place] * static_cast<double>(pass) + phases_[place]));
}

std::int64_t Sampler::draws_before(std::int64_t stream_index, std::int64_t pass) const {
  const std::vector<std::int64_t>& samples = streams_[static_cast<std::size_t>(stream_index)];
  if (weights_.empty()) {
    return pass * static_cast<std::int64_t>(samples.size());
  }
  return std::accumulate(samples.begin(), samples.end(), std::int64_t{0},
                         [&](std::int64_t sum, std::int64_t sample) { return sum + times_before(sample, pass); });
}

std::int64_t Sampler::pass_of(std::int64_t stream_index, std::int64_t position) const {
  return last_at_or_below([&](std::int64_t pass) { return draws_before(stream_index, pass); }, position);
}

/// An endless sequence: pass after pass over the stream's samples, each shuffled by (seed, stream, pass).
std::int64_t Sampler::sample_at(std::int64_t stream_index, std::int64_t position) {
  Pass& pass = passes_[static_cast<std::size_t>(stream_index)];
  if (pass.number < 0 || position < pass.begin ||
      position >= pass.begin + static_cast<std::int64_t>(pass.order.size())) {
    pass.number = pass_of(stream_index, position);
    pass.begin = draws_before(stream_index, pass.number);
    pass.order = streams_[static_cast<std::size_t>(stream_index)];
    if (!weights_.empty()) {
      std::vector<std::int64_t> order;
      for (const std::int64_t sample : pass.order) {
        const std::int64_t times = times_before(sample, pass.number + 1) - times_before(sample, pass.number);
        order.insert(order.end(), static_cast<std::size_t>(times), sample);
      }
      pass.order = std::move(order);
    }
    shuffle(pass.order,
            stream(seed_, static_cast<std::uint64_t>(stream_index), static_cast<std::uint64_t>(pass.number)));
  }
  return pass.order[static_cast<std::size_t>(position - pass.begin)];
}

/// by_task: after e epochs a task with n draws so far has filled floor(n / batch_size) batches.
std::int64_t Sampler::batches_before(std::int64_t epoch) const {
  std::int64_t batches = 0;
  for (std::size_t index = 0; index < streams_.size(); ++index) {
    batches += draws_before(static_cast<std::int64_t>(index), epoch) / batch_size_;
  }
  return batches;
}

/// Finds the epoch of the next step and the order of its batches.
void Sampler::prepare_epoch() {
  const std::int64_t epoch = last_at_or_below([&](std::int64_t one) { return batches_before(one); }, step_);
  if (epoch == epoch_) {
    return;
  }
  epoch_ = epoch;
  epoch_begin_ = batches_before(epoch_);
  epoch_streams_.clear();
  for (std::size_t index = 0; index < streams_.size(); ++index) {
    const auto task = static_cast<std::int64_t>(index);
    const std::int64_t batches =
        draws_before(task, epoch_ + 1) / batch_size_ - draws_before(task, epoch_) / batch_size_;
    epoch_streams_.insert(epoch_streams_.end(), static_cast<std::size_t>(batches), task);
  }
  shuffle(epoch_streams_, stream(seed_, kBatchOrder, static_cast<std::uint64_t>(epoch_)));
}

Sampler::Draw Sampler::next() {
  Draw draw;
  std::int64_t stream_index = 0;
  std::int64_t position = step_ * batch_size_;
  if (batching_ == Batching::by_task) {
    if (epoch_ < 0 || step_ < epoch_begin_ ||
        step_ >= epoch_begin_ + static_cast<std::int64_t>(epoch_streams_.size())) {
      prepare_epoch();
    }
    const auto place = epoch_streams_.begin() + (step_ - epoch_begin_);
    stream_index = *place;
    const std::int64_t earlier = std::count(epoch_streams_.begin(), place, stream_index);
    position = (draws_before(stream_index, epoch_) / batch_size_ + earlier) * batch_size_;
  }
  for (std::int64_t place = 0; place < batch_size_; ++place) {
    draw.samples.push_back(sample_at(stream_index, position + place));
    draw.draws.push_back(step_ * batch_size_ + place);
  }
  ++step_;
  return draw;
}

SamplerState Sampler::state() const { return {seed_, step_}; }

void Sampler::restore(const SamplerState& state) {
  MOELORA_CHECK(state.seed == seed_, "expected a sampler state with seed ", seed_, ", found seed ", state.seed,
                "; resume with the seed that the run began with");
  MOELORA_CHECK(state.step >= 0, "expected a sampler state at step 0 or later, found ", state.step);
  step_ = state.step;
}

double Sampler::epoch() const { return static_cast<double>(step_) * static_cast<double>(batch_size_) / pass_size_; }

Sampler sampler_of(const std::vector<Example>& examples, std::int64_t batch_size, Batching batching,
                   std::uint64_t seed) {
  std::vector<std::int64_t> tasks;
  std::vector<double> weights;
  for (const Example& example : examples) {
    tasks.push_back(example.task);
    weights.push_back(example.weight);
  }
  return {std::move(tasks), batch_size, batching, seed, std::move(weights)};
}

}  // namespace moelora::data
