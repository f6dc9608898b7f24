#include "moelora/model/chat_template.h"

#include <utility>

#include "model/chat_template/nodes.h"
#include "moelora/io/error.h"

namespace moelora::model {

namespace {
constexpr std::size_t kLongestTemplate = 1 << 20;  // bytes; published ones have up to 20,000
}

struct ChatTemplate::Program {
  std::string text, where;
  jinja::Block block;
};

ChatTemplate::ChatTemplate(std::string_view text, std::string where) : program_(std::make_unique<Program>()) {
  MOELORA_CHECK(text.size() <= kLongestTemplate, where, ": expected a template of at most ", kLongestTemplate,
                " bytes, found ", text.size());
  program_->text = text;
  program_->where = std::move(where);
  program_->block = jinja::parse(program_->text, program_->where);
}

ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

const std::string& ChatTemplate::text() const { return program_->text; }

std::string ChatTemplate::render(const std::vector<ChatMessage>& messages, bool add_generation_prompt,
                                 const std::map<std::string, std::string>& variables) const {
  jinja::Json list = jinja::Json::array();
  std::size_t bytes = 0;
  for (const ChatMessage& message : messages) {
    list.push_back({{"role", message.role}, {"content", message.content}});
    bytes += message.content.size() + 256;
  }
  jinja::Run run(program_->where, (std::size_t{64} << 20) + 256 * bytes);
  auto& globals = run.scopes.back();
  for (const auto& [name, content] : variables) {
    globals[name] = jinja::value(content);
  }
  globals["messages"] = jinja::value(std::move(list));
  globals["add_generation_prompt"] = jinja::value(add_generation_prompt);
  globals["tools"] = globals["documents"] = jinja::value(nullptr);
  jinja::run_all(program_->block, run);
  return std::move(run.output);
}

}  // namespace moelora::model
