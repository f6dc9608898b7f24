#pragma once
// Generated text to structured answers, one rule per PromptCBLUE task, as MOELoRA-peft's evaluation or the benchmark's
// own reads them: their oddities included, because scores are compared with theirs.

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "moelora/data/record.h"

namespace moelora::eval {

/// How a task's answers are scored.
enum class Metric {
  micro_f1,                   ///< one label per answer; all samples weigh the same (accuracy)
  macro_f1,                   ///< one label per answer; all labels weigh the same
  item_f1,                    ///< a list of items, compared one by one over all samples; duplicates count
  rouge_l,                    ///< free text
  section_rouge_l,            ///< free text in named sections; mean over samples of the mean over sections
  accuracy,                   ///< one label per answer: the share of right ones
  exact_match,                ///< any text: the share that equals the reference but for white space around it
  weighted_f1,                ///< one label per answer; labels weigh as often as they are true
  set_f1,                     ///< as item_f1, but a sample's items are a set
  benchmark_rouge_l,          ///< free text, tokens and Rouge as the benchmark's evaluation has them
  benchmark_section_rouge_l,  ///< the same in named sections; all sections of all samples weigh the same
  choice_accuracy  ///< accuracy whose answers are compared with the choices without case and a last full stop
};

/// "micro-F1", "macro-F1", "item F1", "Rouge-L", "Rouge-L by section", "accuracy", "exact match", "weighted F1",
/// "set F1", "accuracy of choices"; the benchmark's Rouge has the names of the other.
std::string_view metric_name(Metric metric);

/// Whose reading of answers.
enum class AnswerFormat {
  moelora,      ///< MOELoRA-peft's: half-width `:`, `,`, `;` become full-width first, at most 100 of each
  promptcblue,  ///< The benchmark's: marks stay; a finding that was not offered has another name; CMeIE-V2 for CMeIE
  plain         ///< The text without the white space around it, whatever the task.
};

struct TaskRule {
  std::string_view task;
  Metric metric;
  /// Text whose `:`, `,`, `;` are full-width already, and the record's answer choices.
  nlohmann::ordered_json (*parse)(std::string_view text, const std::vector<std::string>& choices);
  Metric benchmark_metric;
  std::string_view empty_label = {};  ///< What an empty answer counts as in the benchmark's evaluation.
};

/// The 16 tasks of PromptCBLUE in the reference's order.
const std::vector<TaskRule>& task_rules();

/// Knows the newer name of a renamed task (CMeIE-V2) too. nullptr: the task is not one of PromptCBLUE's.
const TaskRule* find_task_rule(std::string_view task);

/// One answer in structured form. Labels and free text: a string. Items: an array of objects. Sections: an object.
/// Never fails on any text. Error: unknown task (unless plain), naming the known ones.
nlohmann::ordered_json parse_answer(std::string_view task, std::string_view answer,
                                    const std::vector<std::string>& choices,
                                    AnswerFormat format = AnswerFormat::moelora);

/// The name under which a task is scored: CMeIE is CMeIE-V2 for the benchmark, all others keep theirs.
std::string_view scored_name(std::string_view task, AnswerFormat format);

/// {task: [{"sample_id", "answer"}, …]} with every task of PromptCBLUE, as the reference's post-processor writes it.
/// Error: a record of an unknown task.
nlohmann::ordered_json structured_answers(const std::vector<data::Record>& records,
                                          AnswerFormat format = AnswerFormat::moelora);

}  // namespace moelora::eval
