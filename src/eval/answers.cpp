#include "moelora/eval/answers.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>

#include "moelora/eval/python_text.h"
#include "moelora/io/error.h"

namespace moelora::eval {
namespace {

using Json = nlohmann::ordered_json;
using Choices = std::vector<std::string>;

constexpr std::string_view kColon = "：";
constexpr std::string_view kComma = "，";
constexpr std::string_view kSemicolon = "；";
// The reference calls str.replace with this count.
constexpr std::int64_t kMostFullWidth = 100;

bool is_choice(std::string_view text, const Choices& choices) {
  return std::find(choices.begin(), choices.end(), text) != choices.end();
}

std::vector<std::string_view> nonempty_stripped(const std::vector<std::string_view>& pieces) {
  std::vector<std::string_view> kept;
  for (const std::string_view piece : pieces) {
    if (const std::string_view stripped = text::strip(piece); !stripped.empty()) kept.push_back(stripped);
  }
  return kept;
}

Json parse_label(std::string_view answer, const Choices&) { return std::string(text::strip(answer)); }

// "相同" and "不同" are the older wordings of the two answers.
Json parse_same_question(std::string_view answer, const Choices&) {
  const std::string_view label = text::strip(answer);
  if (label == "相同") return "是的";
  if (label == "不同") return "不是";
  return std::string(label);
}

// One line per entity type: "<type>实体：a，b，c".
Json parse_entities(std::string_view answer, const Choices& choices) {
  Json entities = Json::array();
  const auto lines = text::split(answer, "\n");
  for (const std::string& choice : choices) {
    const std::string opening = choice + "实体";
    for (const std::string_view line : lines) {
      if (!line.starts_with(opening)) continue;
      const std::string mentions = text::replace(line, opening + std::string(kColon), "");
      for (const std::string_view mention : nonempty_stripped(text::split(mentions, kComma))) {
        entities.push_back({{"entity", std::string(mention)}, {"type", choice}});
      }
    }
  }
  return entities;
}

// One line per relation: "具有<relation>关系的头尾实体对如下：头实体为a，尾实体为b。头实体为…".
Json parse_relations(std::string_view answer, const Choices&) {
  Json relations = Json::array();
  for (const std::string_view line : text::split(answer, "\n")) {
    const std::string_view before = line.substr(0, line.find("关系的头尾实体对"));
    const std::string predicate(text::strip(text::drop_front(before, 2)));
    const std::string pairs = text::replace(line, "具有" + predicate + "关系的头尾实体对如下：", "");
    for (const std::string_view pair : text::split(pairs, "。")) {
      const auto sides = text::split(pair, "，尾实体为");
      if (sides.size() < 2) continue;
      const std::string head = text::replace(sides[0], "头实体为", "");
      const std::string tail = text::replace(sides[1], "尾实体为", "");
      relations.push_back({{"predicate", predicate},
                           {"subject", std::string(text::strip(head))},
                           {"object", std::string(text::strip(tail))}});
    }
  }
  return relations;
}

// The last line lists standard terms; only offered ones count. A set in the reference: here sorted.
Json parse_standard_terms(std::string_view answer, const Choices& choices) {
  std::set<std::string> terms;
  for (const std::string_view term : nonempty_stripped(text::split(text::split(answer, "\n").back(), kComma))) {
    if (is_choice(term, choices)) terms.emplace(term);
  }
  Json items = Json::array();
  for (const std::string& term : terms) items.push_back({{"entity", term}, {"type", "normalization"}});
  return items;
}

// After a first line, one event per line: "主体词：a；发生状态：b；描述词：c，d；解剖部位：e". Every line is an event,
// even an empty one.
Json parse_events(std::string_view answer, const Choices&) {
  struct Field {
    std::string_view name;
    bool is_list;
  };
  constexpr std::array<Field, 4> kFields{
      {{"主体词", false}, {"发生状态", false}, {"描述词", true}, {"解剖部位", true}}};
  Json events = Json::array();
  const auto lines = text::split(answer, "\n");
  for (std::size_t i = 1; i < lines.size(); ++i) {
    Json event;
    for (const Field& field : kFields) event[std::string(field.name)] = field.is_list ? Json::array() : Json("");
    for (const std::string_view piece : text::split(lines[i], kSemicolon)) {
      // What a field leaves behind is looked at again for the fields after it, as the reference does.
      std::string rest(piece);
      for (const Field& field : kFields) {
        const std::string opening = std::string(field.name) + std::string(kColon);
        if (!rest.starts_with(opening)) continue;
        rest = std::string(text::strip(text::replace(rest, opening, "")));
        Json& value = event[std::string(field.name)];
        if (field.is_list) {
          value = Json::array();
          for (const std::string_view word : nonempty_stripped(text::split(rest, kComma))) {
            value.push_back(std::string(word));
          }
        } else {
          value = rest;
        }
      }
    }
    events.push_back(std::move(event));
  }
  return events;
}

// After a first line: "<symptom>：<finding>" per line. A finding that was not offered becomes `otherwise`.
Json parse_findings(std::string_view answer, const Choices& choices, std::string_view otherwise) {
  Json findings = Json::array();
  const auto lines = text::split(answer, "\n");
  for (std::size_t i = 1; i < lines.size(); ++i) {
    const auto sides = text::split(lines[i], kColon);
    if (sides.size() != 2) continue;
    findings.push_back({{"entity", std::string(text::strip(sides[0]))},
                        {"attr", std::string(is_choice(sides[1], choices) ? sides[1] : otherwise)}});
  }
  return findings;
}

Json parse_clinical_findings(std::string_view answer, const Choices& choices) {
  return parse_findings(answer, choices, "无实际意义的不标注或者和病人当前的状态独立不标注");
}

Json parse_symptoms(std::string_view answer, const Choices& choices) {
  return parse_findings(answer, choices, "无法根据上下文确定病人是否患有该症状");
}

Json parse_benchmark_findings(std::string_view answer, const Choices& choices) {
  return parse_findings(answer, choices, "不标注");
}

// After a first line: "<section>：text" per line; the last line of a section counts.
Json parse_report(std::string_view answer, const Choices&) {
  constexpr std::array<std::string_view, 6> kSections{"主诉", "现病史", "辅助检查", "既往史", "诊断", "建议"};
  Json report = Json::object();
  const auto lines = text::split(text::strip(answer), "\n");
  for (const std::string_view section : kSections) {
    const std::string opening = std::string(section) + std::string(kColon);
    for (std::size_t i = 1; i < lines.size(); ++i) {
      if (!lines[i].starts_with(opening)) continue;
      const auto pieces = text::split(text::strip(lines[i]), opening);
      report[std::string(section)] = std::string(text::strip(pieces.back()));
    }
  }
  return report;
}

}  // namespace

std::string_view metric_name(Metric metric) {
  constexpr std::array<std::string_view, 12> kNames{
      "micro-F1",    "macro-F1",    "item F1", "Rouge-L", "Rouge-L by section", "accuracy",
      "exact match", "weighted F1", "set F1",  "Rouge-L", "Rouge-L by section", "accuracy of choices"};
  return kNames[static_cast<std::size_t>(metric)];
}

const std::vector<TaskRule>& task_rules() {
  static const std::vector<TaskRule> rules{
      {"CMeEE-V2", Metric::item_f1, parse_entities, Metric::set_f1},
      {"CMeIE", Metric::item_f1, parse_relations, Metric::set_f1},
      {"CHIP-CDN", Metric::item_f1, parse_standard_terms, Metric::set_f1},
      {"CHIP-CDEE", Metric::item_f1, parse_events, Metric::set_f1},
      {"CHIP-STS", Metric::micro_f1, parse_same_question, Metric::weighted_f1, "是的"},
      {"CHIP-CTC", Metric::micro_f1, parse_label, Metric::macro_f1, "非上述类型"},
      {"CHIP-MDCFNPC", Metric::item_f1, parse_clinical_findings, Metric::set_f1},
      {"KUAKE-IR", Metric::micro_f1, parse_label, Metric::weighted_f1, "相关"},
      {"KUAKE-QIC", Metric::macro_f1, parse_label, Metric::macro_f1, "非上述类型"},
      {"KUAKE-QQR", Metric::micro_f1, parse_label, Metric::weighted_f1, "完全一致"},
      {"KUAKE-QTR", Metric::micro_f1, parse_label, Metric::weighted_f1, "完全不匹配或者没有参考价值"},
      {"MedDG", Metric::rouge_l, parse_label, Metric::benchmark_rouge_l},
      {"IMCS-V2-MRG", Metric::section_rouge_l, parse_report, Metric::benchmark_section_rouge_l},
      {"IMCS-V2-NER", Metric::item_f1, parse_entities, Metric::set_f1},
      {"IMCS-V2-DAC", Metric::macro_f1, parse_label, Metric::macro_f1, "非上述类型"},
      {"IMCS-V2-SR", Metric::item_f1, parse_symptoms, Metric::set_f1},
  };
  return rules;
}

const TaskRule* find_task_rule(std::string_view task) {
  const std::vector<TaskRule>& rules = task_rules();
  // PromptCBLUE renamed this task when it changed its label set; answers look the same.
  if (task == "CMeIE-V2") task = "CMeIE";
  const auto found = std::find_if(rules.begin(), rules.end(), [task](const TaskRule& r) { return r.task == task; });
  return found == rules.end() ? nullptr : &*found;
}

std::string_view scored_name(std::string_view task, AnswerFormat format) {
  return format == AnswerFormat::promptcblue && task == "CMeIE" ? "CMeIE-V2" : task;
}

Json parse_answer(std::string_view task, std::string_view answer, const Choices& choices, AnswerFormat format) {
  if (format == AnswerFormat::plain) return parse_label(answer, choices);
  const TaskRule* rule = find_task_rule(task);
  if (rule == nullptr) {
    std::string known;
    for (const TaskRule& each : task_rules()) known.append(known.empty() ? "" : ", ").append(each.task);
    throw Error("expected a task of PromptCBLUE (" + known + "), found `" + std::string(task) +
                "`: correct the field task_dataset");
  }
  if (format == AnswerFormat::promptcblue) {
    return rule->task == "CHIP-MDCFNPC" ? parse_benchmark_findings(answer, choices) : rule->parse(answer, choices);
  }
  std::string full_width = text::replace(answer, ":", kColon, kMostFullWidth);
  full_width = text::replace(full_width, ",", kComma, kMostFullWidth);
  full_width = text::replace(full_width, ";", kSemicolon, kMostFullWidth);
  return rule->parse(full_width, choices);
}

Json structured_answers(const std::vector<data::Record>& records, AnswerFormat format) {
  Json all = Json::object();
  for (const TaskRule& rule : task_rules()) all[std::string(scored_name(rule.task, format))] = Json::array();
  for (const data::Record& record : records) {
    Json answer = parse_answer(record.task, record.target, record.answer_choices, format);
    all[std::string(scored_name(find_task_rule(record.task)->task, format))].push_back(
        {{"sample_id", record.sample_id}, {"answer", std::move(answer)}});
  }
  return all;
}

}  // namespace moelora::eval
