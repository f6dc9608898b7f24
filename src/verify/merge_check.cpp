#include "moelora/verify/merge_check.h"

#include <ATen/ops/topk.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "moelora/io/error.h"

namespace moelora::verify {
namespace {

struct Answers {
  std::vector<model::Generation> generations;
  std::vector<std::vector<double>> margins;  ///< of each prompt, at each step: best logit minus second best
};

Answers answer_greedily(model::CausalLM& model, const std::vector<model::Prompt>& prompts,
                        const MergeCheckOptions& options, const nn::ContextMaker& context) {
  Answers answers;
  answers.margins.resize(prompts.size());
  model::GenerationOptions generation = options.generation;
  generation.sample = false;
  const auto batch = static_cast<std::size_t>(options.batch_size);
  for (std::size_t begin = 0; begin < prompts.size(); begin += batch) {
    const std::size_t end = std::min(prompts.size(), begin + batch);
    const auto note_margins = [&](const at::Tensor& logits, const std::vector<std::int64_t>& sequences) {
      const at::Tensor best = std::get<0>(at::topk(logits, 2, 1)).to(at::kCPU, at::kFloat).contiguous();
      const float* value = best.data_ptr<float>();
      for (std::size_t row = 0; row < sequences.size(); ++row) {
        answers.margins[begin + sequences[row]].push_back(value[2 * row] - value[2 * row + 1]);
      }
    };
    auto some =
        model::generate(model, {prompts.begin() + begin, prompts.begin() + end}, generation, context, {}, note_margins);
    std::move(some.begin(), some.end(), std::back_inserter(answers.generations));
  }
  return answers;
}

// Index of the first step at which two answers differ; -1: they are the same. The end of an answer is a token too.
std::int64_t first_difference(const model::Generation& a, const model::Generation& b) {
  const auto common = std::mismatch(a.ids.begin(), a.ids.end(), b.ids.begin(), b.ids.end());
  const bool same = common.first == a.ids.end() && common.second == b.ids.end() && a.finished == b.finished;
  return same ? -1 : common.first - a.ids.begin();
}

}  // namespace

nlohmann::ordered_json MergeCheck::to_json() const {
  return {{"task", task},           {"prompts", prompts},     {"equal", equal},
          {"undecided", undecided}, {"different", different}, {"largest_margin", largest_margin},
          {"passed", passed()}};
}

MergeCheck check_merge(model::CausalLM& model, Adapter& adapter, std::string_view task,
                       const std::vector<model::Prompt>& prompts, const MergeCheckOptions& options,
                       const MergeOptions& merge, Certificate& certificate) {
  MOELORA_CHECK(!is_merged(adapter) && adapter->enabled(),
                "checking a merge starts from the enabled, unmerged adapter");
  MOELORA_CHECK(!prompts.empty(), "expected prompts of task ", task,
                " to compare the merged model's answers with the adapter's, found none");
  require_mergeable(*adapter);
  const Answers with_adapter = answer_greedily(model, prompts, options, for_task(adapter, task));
  certificate = merge_for_task(adapter, task, merge);
  const Answers merged = answer_greedily(model, prompts, options, {});
  MergeCheck check;
  check.task = task;
  check.prompts = static_cast<std::int64_t>(prompts.size());
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const std::int64_t step = first_difference(with_adapter.generations[i], merged.generations[i]);
    if (step < 0) {
      ++check.equal;
      continue;
    }
    const double margin = with_adapter.margins[i].at(step);
    check.largest_margin = std::max(check.largest_margin, margin);
    ++(margin < options.margin ? check.undecided : check.different);
  }
  return check;
}

}  // namespace moelora::verify
