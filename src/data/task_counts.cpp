#include "moelora/data/task_counts.h"

#include <algorithm>
#include <unordered_map>

#include "moelora/io/error.h"
#include "moelora/io/utf8.h"

namespace moelora::data {
namespace {

std::uint32_t code_point(std::string_view character) {
  const auto lead = static_cast<unsigned char>(character[0]);
  std::uint32_t code = character.size() == 1 ? lead : lead & (0xffu >> (character.size() + 1));
  for (std::size_t i = 1; i < character.size(); ++i) {
    code = code << 6 | (static_cast<unsigned char>(character[i]) & 0x3f);
  }
  return code;
}

bool is_blank_character(std::uint32_t code) {
  return code <= 0x20 || code == 0x7f || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) ||
         code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

bool is_invisible(std::uint32_t code) {
  return code == 0xad || (code >= 0x200b && code <= 0x200f) || code == 0x2060 || code == 0xfeff;
}

bool is_dash(std::uint32_t code) {
  return code == '-' || code == '_' || (code >= 0x2010 && code <= 0x2015) || code == 0x2212;
}

std::uint32_t small_letter(std::uint32_t code) {
  const bool plus_32 = (code >= 'A' && code <= 'Z') || (code >= 0xc0 && code <= 0xde && code != 0xd7) ||
                       (code >= 0x391 && code <= 0x3a9) || (code >= 0x410 && code <= 0x42f);
  return plus_32 ? code + 32 : code;
}

}  // namespace

std::vector<TaskCount> count_tasks(const std::vector<Record>& records) {
  std::vector<TaskCount> tasks;
  std::unordered_map<std::string_view, std::size_t> places;
  for (const Record& record : records) {
    const std::size_t place = places.emplace(record.task, tasks.size()).first->second;
    if (place == tasks.size()) {
      tasks.push_back({record.task, 0});
    }
    ++tasks[place].records;
  }
  return tasks;
}

std::string folded_task_name(std::string_view task) {
  std::string folded;
  bool divided = false;  // a blank or a dash came since the last other character
  bool dashed = false;   // among them a dash: kept at the ends too
  for (std::size_t at = 0; at < task.size();) {
    const std::size_t length = std::max<std::size_t>(io::utf8_length(task, at), 1);
    const std::string_view character = task.substr(at, length);
    at += length;
    std::uint32_t code = code_point(character);
    const bool full_width = code >= 0xff01 && code <= 0xff5e;
    code = full_width ? code - 0xff01 + '!' : code;
    if (is_invisible(code)) {
      continue;
    }
    if (is_blank_character(code) || is_dash(code)) {
      divided = true;
      dashed = dashed || is_dash(code);
      continue;
    }
    if (divided && (!folded.empty() || dashed)) {
      folded += '-';
    }
    divided = dashed = false;
    io::append_utf8(folded, small_letter(code));
  }
  return dashed ? folded + '-' : folded;
}

std::vector<std::vector<TaskCount>> near_twins(const std::vector<TaskCount>& tasks) {
  std::vector<std::vector<TaskCount>> groups;
  std::unordered_map<std::string, std::size_t> places;
  for (const TaskCount& task : tasks) {
    const std::size_t place = places.emplace(folded_task_name(task.task), groups.size()).first->second;
    if (place == groups.size()) {
      groups.emplace_back();
    }
    groups[place].push_back(task);
  }
  std::erase_if(groups, [](const auto& group) { return group.size() < 2; });
  return groups;
}

std::string list_of_tasks(const std::vector<TaskCount>& tasks) {
  std::string text;
  for (const TaskCount& task : tasks) {
    text += detail::concat(text.empty() ? "" : ", ", "'", task.task, "' (", task.records,
                           task.records == 1 ? " record)" : " records)");
  }
  return text;
}

}  // namespace moelora::data
