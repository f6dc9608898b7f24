#pragma once
// Chat templates: how a family writes a conversation as one text. They are Jinja programs; this is an interpreter of
// the part of Jinja that they are written in, with the whitespace rules of the library transformers (trim_blocks,
// lstrip_blocks). Rendering reads no files, calls nothing outside, and ends in bounded time and memory.

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace moelora::model {

struct ChatMessage {
  std::string role;  ///< "system", "user", "assistant"
  std::string content;
};

class ChatTemplate {
 public:
  /// Error, with the line: what is no Jinja, or a tag, filter, test, function or method that is not supported. `where`
  /// names the template in errors.
  ChatTemplate(std::string_view text, std::string where);
  ChatTemplate(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  /// `variables`: bos_token, eos_token and the like. Beside them a template sees `messages`, `add_generation_prompt`,
  /// and `tools` and `documents`, which are none. There is no strftime_now: a prompt that changes with the date would
  /// make no run repeatable; templates that ask for it have a date of their own. Error: the template raises one, or
  /// uses a value in a way that Jinja does not allow, or takes too long.
  std::string render(const std::vector<ChatMessage>& messages, bool add_generation_prompt,
                     const std::map<std::string, std::string>& variables) const;
  const std::string& text() const;  ///< As it was given.

 private:
  struct Program;
  std::unique_ptr<Program> program_;
};

}  // namespace moelora::model
