#pragma once
// Generated text to structured answers, one rule per PromptCBLUE task, as MOELoRA-peft's evaluation reads them: its
// oddities included, because scores are compared with it.

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "moelora/data/record.h"

namespace moelora::eval {

/// How a task's answers are scored.
enum class Metric {
  micro_f1,        ///< one label per answer; all samples weigh the same (accuracy)
  macro_f1,        ///< one label per answer; all labels weigh the same
  item_f1,         ///< a list of items, compared one by one over all samples; duplicates count
  rouge_l,         ///< free text
  section_rouge_l  ///< free text in named sections
};

/// "micro-F1", "macro-F1", "item F1", "Rouge-L", "Rouge-L by section".
std::string_view metric_name(Metric metric);

struct TaskRule {
  std::string_view task;
  Metric metric;
  /// Text whose `:`, `,`, `;` are full-width already, and the record's answer choices.
  nlohmann::ordered_json (*parse)(std::string_view text, const std::vector<std::string>& choices);
};

/// The 16 tasks of PromptCBLUE in the reference's order.
const std::vector<TaskRule>& task_rules();

/// Knows the newer name of a renamed task (CMeIE-V2) too. nullptr: the task is not one of PromptCBLUE's.
const TaskRule* find_task_rule(std::string_view task);

/// One answer in structured form. Half-width `:`, `,`, `;` become full-width first, at most 100 of each. Labels and
/// free text: a string. Items: an array of objects. Sections: an object. Never fails on any text. Error: unknown task,
/// naming the known ones.
nlohmann::ordered_json parse_answer(std::string_view task, std::string_view answer,
                                    const std::vector<std::string>& choices);

/// {task: [{"sample_id", "answer"}, …]} with every task of PromptCBLUE, as the reference's post-processor writes it.
/// Error: a record of an unknown task.
nlohmann::ordered_json structured_answers(const std::vector<data::Record>& records);

}  // namespace moelora::eval
