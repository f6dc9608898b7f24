#include "train/step_exchange.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "moelora/data/balance.h"
#include "moelora/io/error.h"
#include "nn/move_together.h"

namespace moelora::train {
namespace {

// The buffer behind the gradients: for each parameter 1 if this rank has a gradient, for each sample's loss two fp32
// whose sum is the fp64 (its other summands are zeros, so nothing is rounded), then the wish to stop.
struct Tail {
  std::int64_t parameters;
  std::int64_t losses;
  std::int64_t high() const { return parameters; }
  std::int64_t low() const { return parameters + losses; }
  std::int64_t stop() const { return parameters + 2 * losses; }
  std::int64_t size() const { return stop() + 1; }
};

}  // namespace

std::vector<std::int64_t> samples_of_rank(const std::vector<const data::Example*>& examples,
                                          const ProcessGroup& ranks) {
  std::vector<std::int64_t> lengths;
  for (const data::Example* example : examples) {
    lengths.push_back(example->length());
  }
  return data::balance(lengths, ranks.size())[static_cast<std::size_t>(ranks.rank())];
}

StepExchange::StepExchange(ProcessGroup& ranks, const io::NamedTensors& parameters)
    : ranks_(ranks), begins_{0}, device_(at::kCPU) {
  for (const auto& [name, parameter] : parameters) {
    shapes_.push_back(parameter.sizes().vec());
    begins_.push_back(begins_.back() + parameter.numel());
    device_ = parameter.device();
  }
}

StepExchange::Share StepExchange::sum(const Share& share) {
  const at::NoGradGuard no_grad;
  const auto parameters = static_cast<std::int64_t>(shapes_.size());
  const Tail tail{parameters, static_cast<std::int64_t>(share.losses.size())};
  const std::int64_t size = begins_.back() + tail.size();
  if (!buffer_.defined() || buffer_.numel() != size) {
    buffer_ = at::zeros({size}, at::TensorOptions(at::kFloat).device(device_));
  }
  const std::vector<at::Tensor> slots = this->slots();
  at::Tensor rest = at::zeros({tail.size()});
  float* numbers = rest.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < parameters; ++i) {
    if (share.gradients[i].defined()) {
      slots[i].copy_(share.gradients[i]);
      numbers[i] = 1.0F;
    } else {
      slots[i].zero_();
    }
  }
  for (std::int64_t i = 0; i < tail.losses; ++i) {
    const auto high = static_cast<float>(share.losses[i]);
    numbers[tail.high() + i] = high;
    numbers[tail.low() + i] = static_cast<float>(share.losses[i] - static_cast<double>(high));
  }
  numbers[tail.stop()] = share.stop ? 1.0F : 0.0F;
  at::Tensor end = buffer_.narrow(0, begins_.back(), tail.size());
  end.copy_(rest);

  ranks_.sum(buffer_);

  rest.copy_(end);
  Share total;
  for (std::int64_t i = 0; i < parameters; ++i) {
    total.gradients.push_back(numbers[i] > 0.0F ? slots[i] : at::Tensor());
  }
  for (std::int64_t i = 0; i < tail.losses; ++i) {
    total.losses.push_back(static_cast<double>(numbers[tail.high() + i]) +
                           static_cast<double>(numbers[tail.low() + i]));
  }
  total.stop = numbers[tail.stop()] > 0.0F;
  return total;
}

/// The gradients' places in the buffer.
std::vector<at::Tensor> StepExchange::slots() const {
  std::vector<at::Tensor> slots;
  for (std::size_t i = 0; i < shapes_.size(); ++i) {
    slots.push_back(buffer_.narrow(0, begins_[i], begins_[i + 1] - begins_[i]).view(shapes_[i]));
  }
  return slots;
}

StepExchange::DeviceTotal StepExchange::sum_on_device(const std::vector<at::Tensor>& gradients, const LabelLosses& own,
                                                      const std::vector<const data::Example*>& all,
                                                      const std::vector<std::int64_t>& mine, bool stop) {
  const at::NoGradGuard no_grad;
  // What the host must know goes from host to host: which parameters have a gradient, and the wish to stop.
  const auto parameters = static_cast<std::int64_t>(shapes_.size());
  const at::Tensor known = at::zeros({parameters + 1});
  float* numbers = known.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < parameters; ++i) {
    numbers[i] = gradients[i].defined() ? 1.0F : 0.0F;
  }
  numbers[parameters] = stop ? 1.0F : 0.0F;
  ranks_.sum(known);

  // The buffer: gradients, then the losses of all labels of the step, sample by sample.
  DeviceTotal total;
  total.losses.samples = losses_of(all, {});
  std::vector<std::int64_t> first_label{0};
  for (const std::int64_t labels : total.losses.samples.labels) {
    first_label.push_back(first_label.back() + labels);
  }
  constexpr std::int64_t kStep = 4096;  // so that it seldom has another size
  const std::int64_t size = begins_.back() + (first_label.back() + kStep - 1) / kStep * kStep;
  if (!buffer_.defined() || buffer_.numel() != size) {
    buffer_ = at::empty({size}, at::TensorOptions(at::kFloat).device(device_));
  }
  buffer_.zero_();
  const std::vector<at::Tensor> places = slots();
  std::vector<at::Tensor> targets, sources;
  for (std::int64_t i = 0; i < parameters; ++i) {
    if (gradients[i].defined()) {
      targets.push_back(places[i]);
      sources.push_back(gradients[i]);
    }
  }
  if (!targets.empty()) {
    at::_foreach_copy_(targets, sources);
  }
  const at::Tensor losses = buffer_.narrow(0, begins_.back(), first_label.back());
  std::vector<std::int64_t> rows;
  for (const std::vector<std::int64_t>& micro_batch : own.of_samples) {
    for (const std::int64_t index : micro_batch) {
      const std::int64_t sample = mine[static_cast<std::size_t>(index)];
      for (std::int64_t row = first_label[sample]; row < first_label[sample + 1]; ++row) {
        rows.push_back(row);
      }
    }
  }
  if (!rows.empty()) {
    at::Tensor where = at::tensor(rows, at::kLong);
    nn::move_together({&where}, device_);
    losses.index_copy_(0, where, at::cat(own.values));
  }

  ranks_.sum(buffer_);

  for (std::int64_t i = 0; i < parameters; ++i) {
    total.gradients.push_back(numbers[i] > 0.0F ? places[i] : at::Tensor());
  }
  total.losses.of_samples.emplace_back(all.size());
  std::iota(total.losses.of_samples.front().begin(), total.losses.of_samples.front().end(), 0);
  total.losses.values.push_back(losses.clone());  // the buffer is the next step's
  total.stop = numbers[parameters] > 0.0F;
  return total;
}

SampleLosses gather_losses(ProcessGroup& ranks, const std::vector<const data::Example*>& all,
                           const std::vector<std::int64_t>& mine, const SampleLosses& own) {
  const at::Tensor sums = at::zeros({static_cast<std::int64_t>(all.size())}, at::kDouble);
  double* values = sums.mutable_data_ptr<double>();
  for (std::size_t i = 0; i < mine.size(); ++i) {
    values[mine[i]] = own.sums[i];
  }
  ranks.sum(sums);
  return losses_of(all, {values, values + all.size()});
}

SampleLosses losses_of(const std::vector<const data::Example*>& examples, std::vector<double> sums) {
  SampleLosses losses;
  losses.sums = std::move(sums);
  for (const data::Example* example : examples) {
    losses.labels.push_back(example->label_count());
    losses.tokens += example->length();
  }
  return losses;
}

void check_same_on_ranks(ProcessGroup& ranks, const nlohmann::ordered_json& own) {
  const std::vector<std::string> all = ranks.gather(own.dump());
  const auto first = nlohmann::ordered_json::parse(all.front());
  for (std::size_t rank = 1; rank < all.size(); ++rank) {
    std::string different;
    const auto other = nlohmann::ordered_json::parse(all[rank]);
    for (const auto& [key, value] : first.items()) {
      if (!other.contains(key) || other.at(key) != value) {
        different += (different.empty() ? "" : ", ") + key;
      }
    }
    MOELORA_CHECK(different.empty(), "rank ", rank, " of ", all.size(), " differs from rank 0 in: ", different,
                  "; all ranks need the same configuration, model and data, and see the same output folder");
  }
}

}  // namespace moelora::train
