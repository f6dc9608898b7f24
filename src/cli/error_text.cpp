#include "cli/error_text.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <regex>

#include "moelora/io/json_text.h"
#include "moelora/io/utf8.h"

namespace moelora::cli {

std::string error_text(const std::exception& error) {
  if (const auto* access = dynamic_cast<const std::filesystem::filesystem_error*>(&error)) {
    const std::string second = access->path2().empty() ? "" : " or " + access->path2().string();
    return "cannot access " + access->path1().string() + second + ": " + access->code().message();
  }
  if (dynamic_cast<const nlohmann::json::exception*>(&error) != nullptr) {
    return "a JSON file has another form than expected: " + io::plain_json_message(error.what());
  }
  return error.what();
}

std::string command_line_text(const std::string& message) {
  constexpr std::size_t kLongest = 300;
  const std::string text = io::shortened(message, kLongest);
  std::smatch part;
  // "--way: Check foo value in {random->0,similar->1} OR {0,1} FAILED"
  if (std::regex_match(text, part, std::regex("(.+): Check (.*) value in \\{(.*)\\} OR \\{.*\\} FAILED"))) {
    const std::string names = std::regex_replace(part[3].str(), std::regex("->[^,]*,?"), " ");
    return part[1].str() + ": expected one of " + names.substr(0, names.find_last_not_of(' ') + 1) + ", found '" +
           part[2].str() + "'";
  }
  if (std::regex_match(text, part, std::regex("Could not convert: (.+) = (.*)"))) {
    return part[1].str() + ": expected a number, found '" + part[2].str() + "'";
  }
  if (std::regex_match(text, part, std::regex("(.+): [0-9]+ required .* missing"))) {
    return part[1].str() + ": its value is missing";
  }
  if (std::regex_match(text, part, std::regex("The following arguments? (was|were) not expected: (.*)"))) {
    return "found what no option expects: " + part[2].str();
  }
  return text;
}

}  // namespace moelora::cli
