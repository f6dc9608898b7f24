#include "train/validation.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "moelora/train/step.h"
#include "train/step_exchange.h"

namespace moelora::train {
namespace {

constexpr std::size_t kNamedSamples = 8;  // of a task, in a text

}  // namespace

nlohmann::ordered_json means_of(const LossByTask& losses) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const auto& [task, sum_and_labels] : losses) {
    json[task] = sum_and_labels.first / static_cast<double>(sum_and_labels.second);
  }
  return json;
}

std::string samples_not_finite(const ValidationLoss& validation) {
  std::string text;
  for (const auto& [task, ids] : validation.not_finite) {
    text += text.empty() ? "" : "; ";
    for (std::size_t i = 0; i < ids.size() && i < kNamedSamples; ++i) {
      text += (i == 0 ? "" : ", ") + ids[i];
    }
    if (ids.size() > kNamedSamples) {
      text += " and " + std::to_string(ids.size() - kNamedSamples) + " more";
    }
    text += " of task " + task;
  }
  return text;
}

nlohmann::ordered_json log_line(const ValidationLoss& validation, std::int64_t step, bool best) {
  const auto number = [](double loss) {
    return std::isfinite(loss) ? nlohmann::ordered_json(loss) : nlohmann::ordered_json(nullptr);
  };
  nlohmann::ordered_json line{{"step", step}, {"validation_loss", number(validation.loss)}, {"best", best}};
  for (const auto& [task, loss] : validation.by_task) {
    line["validation_loss_by_task"][task] = number(loss);
  }
  for (const auto& [task, ids] : validation.not_finite) {
    line["not_finite"][task] = ids;
  }
  return line;
}

ValidationLoss validation_loss(model::CausalLM& model, const AdapterImpl* adapter,
                               const std::vector<data::Example>& examples, const std::vector<std::string>& tasks,
                               std::int64_t micro_batch_tokens, ProcessGroup* ranks) {
  std::vector<const data::Example*> all;
  for (const data::Example& example : examples) {
    all.push_back(&example);
  }
  SampleLosses losses;
  if (ranks == nullptr) {
    losses = evaluate_losses(model, adapter, all, micro_batch_tokens);
  } else {
    const std::vector<std::int64_t> mine = samples_of_rank(all, *ranks);
    std::vector<const data::Example*> part;
    for (const std::int64_t sample : mine) {
      part.push_back(all[static_cast<std::size_t>(sample)]);
    }
    losses = gather_losses(*ranks, all, mine, evaluate_losses(model, adapter, part, micro_batch_tokens));
  }
  LossByTask by_task;
  std::map<std::string, std::vector<std::string>> not_finite;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const std::string& task = tasks.at(static_cast<std::size_t>(all[i]->task));
    auto& [sum, labels] = by_task[task];
    sum += losses.sums[i];
    labels += losses.labels[i];
    if (!std::isfinite(losses.sums[i])) {
      not_finite[task].push_back(all[i]->id);
    }
  }
  ValidationLoss result;
  result.loss = losses.mean();
  for (const auto& [task, sum_and_labels] : by_task) {
    result.by_task.emplace_back(task, sum_and_labels.first / static_cast<double>(sum_and_labels.second));
  }
  result.not_finite.assign(not_finite.begin(), not_finite.end());
  return result;
}

}  // namespace moelora::train
