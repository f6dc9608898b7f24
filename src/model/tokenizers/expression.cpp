#include "model/tokenizers/expression.h"

#include <utility>

#include "moelora/io/error.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace moelora::model::tokenizers {
namespace {

constexpr std::size_t kLongestPattern = 10000;  // bytes; published ones have a few hundred
constexpr std::uint32_t kMostSteps = 20'000'000;
constexpr std::uint32_t kMostHeap = 64 * 1024;  // KiB

std::string message_of(int code) {
  PCRE2_UCHAR text[160];
  return pcre2_get_error_message(code, text, sizeof text) < 0 ? "error " + std::to_string(code)
                                                              : std::string(reinterpret_cast<const char*>(text));
}

/// What a thread needs to match: one place for the result, and limits.
struct Workspace {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 * 1024, 1024 * 1024, nullptr);

  Workspace() {
    pcre2_set_match_limit(context, kMostSteps);
    pcre2_set_heap_limit(context, kMostHeap);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
};

Workspace& workspace() {
  thread_local Workspace one;
  return one;
}

pcre2_code* compile(std::string_view pattern, const std::string& where, std::uint32_t options) {
  MOELORA_CHECK(pattern.size() <= kLongestPattern, where, ": expected an expression of at most ", kLongestPattern,
                " bytes, found ", pattern.size());
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE at = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options, &error, &at, context);
  pcre2_compile_context_free(context);
  MOELORA_CHECK(code != nullptr, where, ": expected a regular expression, found ", pattern.substr(0, 200), " (",
                message_of(error), " at byte ", at, ")");
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without it PCRE2 interprets the expression: slower, the same result
  return code;
}

}  // namespace

struct Expression::Code {
  pcre2_code* code = nullptr;
  std::string where;

  Code(pcre2_code* compiled, std::string name) : code(compiled), where(std::move(name)) {}
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  ~Code() { pcre2_code_free(code); }
};

Expression::Expression(std::string_view pattern, const std::string& where)
    : code_(std::make_unique<Code>(
          compile(as_pcre2(pattern, where), where, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C),
          where)) {}

Expression Expression::literal(std::string_view text, const std::string& where) {
  MOELORA_CHECK(!text.empty(), where, ": expected a text to look for, found an empty one");
  return Expression(std::make_unique<Code>(compile(text, where, PCRE2_UTF | PCRE2_LITERAL), where));
}

Expression::Expression(std::unique_ptr<Code> code) : code_(std::move(code)) {}
Expression::Expression(Expression&&) noexcept = default;
Expression::~Expression() = default;

bool Expression::find(std::string_view text, std::size_t from, Span& match) const {
  Workspace& use = workspace();
  const auto* bytes = reinterpret_cast<PCRE2_SPTR>(text.data());
  int found = pcre2_match(code_->code, bytes, text.size(), from, PCRE2_NO_UTF_CHECK, use.data, use.context);
  if (found == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter keeps what it must remember on the heap
    found =
        pcre2_match(code_->code, bytes, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, use.data, use.context);
  }
  if (found == PCRE2_ERROR_NOMATCH) {
    return false;
  }
  MOELORA_CHECK(found >= 0, code_->where, ": expected an expression that a text of ", text.size(),
                " bytes is matched with in bounded time and memory, found one that is not (", message_of(found), ")");
  const PCRE2_SIZE* places = pcre2_get_ovector_pointer(use.data);
  match = {places[0], places[1]};
  return true;
}

}  // namespace moelora::model::tokenizers
