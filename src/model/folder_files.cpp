#include "moelora/model/folder_files.h"

#include <algorithm>
#include <cctype>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>

#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/log/log.h"

namespace moelora::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

// Those of the tokenizers in use, and what a served copy must carry along.
constexpr const char* kPlainFiles[] = {"ice_text.model",
                                       "tokenizer.model",
                                       "spiece.model",
                                       "sentencepiece.bpe.model",
                                       "tokenizer.json",
                                       "tokenizer_config.json",
                                       "special_tokens_map.json",
                                       "added_tokens.json",
                                       "vocab.json",
                                       "vocab.txt",
                                       "merges.txt",
                                       "chat_template.jinja",
                                       "chat_template.json",
                                       "generation_config.json",
                                       "LICENSE",
                                       "LICENSE.txt",
                                       "MODEL_LICENSE",
                                       "NOTICE"};

bool is_plain_name(std::string_view word) {
  return !word.empty() && std::isdigit(static_cast<unsigned char>(word.front())) == 0 &&
         std::all_of(word.begin(), word.end(),
                     [](unsigned char c) { return std::isalnum(c) != 0 || c == '_' || c == '-' || c >= 0x80; });
}

/// "a.b" → a/b; nothing unless every part is a plain name, so that no name leads out of the folder.
std::optional<fs::path> module_path(std::string_view dotted) {
  fs::path path;
  for (std::size_t begin = 0; begin <= dotted.size();) {
    const std::size_t end = std::min(dotted.find('.', begin), dotted.size());
    const std::string_view part = dotted.substr(begin, end - begin);
    if (!is_plain_name(part)) {
      return std::nullopt;
    }
    path /= part;
    begin = end + 1;
  }
  return path;
}

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r\f");
  return first == text.npos ? std::string_view() : text.substr(first, text.find_last_not_of(" \t\r\f") - first + 1);
}

/// The words of "from .a import b as c, d" that may be modules, as dotted names relative to the importing file's
/// folder: a, or b and d where only dots stand before `import`.
std::vector<std::string> relative_imports(const std::string& source) {
  std::vector<std::string> modules;
  for (std::size_t begin = 0; begin < source.size();) {
    const std::size_t end = std::min(source.find('\n', begin), source.size());
    std::string_view line = trimmed(std::string_view(source).substr(begin, end - begin));
    begin = end + 1;
    const std::size_t import = line.find(" import");
    if (!line.starts_with("from") || import == line.npos) {
      continue;
    }
    const std::string_view from = trimmed(line.substr(4, import - 4));
    if (!from.starts_with('.') || from.starts_with("..")) {
      continue;  // an installed package, or a folder above this one
    }
    if (from.size() > 1) {
      modules.emplace_back(trimmed(from.substr(1)));
      continue;
    }
    std::string_view names = line.substr(import + 7);
    if (names.find('(') != names.npos) {  // the list may go over several lines
      const std::size_t open = static_cast<std::size_t>(names.data() - source.data()) + names.find('(') + 1;
      names = std::string_view(source).substr(open, std::min(source.find(')', open), source.size()) - open);
    }
    while (!names.empty()) {
      const std::size_t comma = std::min(names.find(','), names.size());
      std::string_view name = names.substr(0, comma);
      name = name.substr(std::min(name.find_first_not_of(" \t\r\n\\"), name.size()));
      modules.emplace_back(name.substr(0, name.find_first_of(" \t\r\n#\\;")));
      names.remove_prefix(std::min(comma + 1, names.size()));
    }
  }
  return modules;
}

class CodeFinder {
 public:
  CodeFinder(const fs::path& folder, FolderFiles& files) : folder_(folder), files_(files) {}

  /// `reference` as auto_map has it: "module.Class", "owner/name--module.Class", a list of those, or null.
  void follow_reference(const ordered_json& reference, const std::string& where) {
    if (reference.is_array()) {
      for (const ordered_json& one : reference) {
        follow_reference(one, where);
      }
      return;
    }
    if (!reference.is_string()) {
      return;
    }
    const std::string text = reference.get<std::string>();
    const std::size_t dashes = text.find("--");
    const std::string own = dashes == std::string::npos ? text : text.substr(dashes + 2);
    const auto module = module_path(own.substr(0, own.rfind('.')));
    if (own.find('.') == std::string::npos || !module) {
      files_.missing.push_back("'" + text + "', which is no module of this folder (" + where + ")");
    } else if (!follow_module(*module) && dashes == std::string::npos) {
      files_.missing.push_back(module->string() + ".py (" + where + ")");
    }
  }

 private:
  /// False if there is no such file.
  bool follow_module(const fs::path& module) {
    const fs::path file = module.string() + ".py";
    const fs::path package = module / "__init__.py";
    const fs::path found = fs::is_regular_file(folder_ / file) ? file : package;
    if (!fs::is_regular_file(folder_ / found)) {
      return false;
    }
    if (!seen_.insert(found.string()).second) {
      return true;
    }
    files_.present.push_back(found);
    for (const std::string& name : relative_imports(io::read_text_file(folder_ / found))) {
      if (const auto imported = module_path(name)) {
        follow_module(found.parent_path() / *imported);  // `from . import x` may also name something that is no module
      }
    }
    return true;
  }

  const fs::path& folder_;
  FolderFiles& files_;
  std::set<std::string> seen_;
};

}  // namespace

FolderFiles folder_files(const fs::path& folder) {
  FolderFiles files;
  for (const char* name : kPlainFiles) {
    if (fs::is_regular_file(folder / name)) {
      files.present.emplace_back(name);
    }
  }
  CodeFinder code(folder, files);
  for (const char* name : {"config.json", "tokenizer_config.json"}) {
    if (!fs::is_regular_file(folder / name)) {
      continue;
    }
    const ordered_json json = io::read_json_file(folder / name);
    const auto map = json.is_object() ? json.find("auto_map") : json.end();
    if (map == json.end() || !map->is_object()) {
      continue;
    }
    for (const auto& [key, reference] : map->items()) {
      code.follow_reference(reference, std::string(name) + ", " + key);
    }
  }
  return files;
}

void copy_folder_files(const fs::path& from, const fs::path& to) {
  if (fs::exists(from) && fs::equivalent(from, to)) {
    return;
  }
  for (const fs::path& file : folder_files(from).present) {
    fs::create_directories((to / file).parent_path());
    fs::copy_file(from / file, to / file, fs::copy_options::overwrite_existing);
  }
}

void warn_of_missing_files(const fs::path& folder) {
  const std::vector<std::string> missing = folder_files(folder).missing;
  if (missing.empty()) {
    return;
  }
  std::string text = folder.string() + " lacks code that its auto_map names, so what is written from it lacks it too:";
  std::set<std::string> files;
  for (const std::string& entry : missing) {
    if (files.insert(entry.substr(0, entry.find(" ("))).second) {
      text += (files.size() == 1 ? " " : "; ") + entry;
    }
  }
  log::warning(text + ". Programs that load the model with that code need the files beside config.json");
}

}  // namespace moelora::model
