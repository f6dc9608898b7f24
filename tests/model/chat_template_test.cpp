#include "moelora/model/chat_template.h"

#include <gtest/gtest.h>

#include "moelora/io/error.h"

namespace moelora::model {
namespace {

const std::vector<ChatMessage> kMessages{{"user", "Hi 头痛\n"}, {"assistant", " yes "}};

std::string rendered(const std::string& text, bool asks = true) {
  return ChatTemplate(text, "test").render(kMessages, asks, {{"bos_token", "<s>"}});
}

std::string problem(const std::string& text) {
  try {
    rendered(text);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

// What Jinja 3.1.6 gives with trim_blocks and lstrip_blocks.
TEST(ChatTemplate, WritesWhatJinjaWrites) {
  const std::pair<const char*, const char*> cases[] = {
      {"{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m['content'] | trim }}{% endfor %}",
       "<s>[user]Hi 头痛[assistant]yes"},
      {"{% if add_generation_prompt %}go{% endif %}", "go"},
      {"  {% if true %}\n  a\n  {% endif %}\n b", "  a\n b"},
      {"x {%- if true -%} \n y {%- endif %}\nz", "xyz"},
      {"a\n{{ 'b' }}\nc\n\n", "a\nb\nc\n"},
      {"{# c #}\na {#- d -#} b", "ab"},
      {"{{ 1 + 2 * 3 - 7 // 2 % 3 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }}", "7 -4 2 3.5"},
      {"{{ 'a' ~ 1 ~ none ~ true ~ 1.5 }}", "a1NoneTrue1.5"},
      {"{% for i in range(10) %}{% if i == 3 %}{% continue %}{% endif %}{% if i == 6 %}{% break %}{% endif %}{{ i }}{% "
       "endfor %}",
       "01245"},
      {"{% for i in range(5) if i is odd %}{{ i }},{{ loop.index }}{{ loop.last }} {% else %}none{% endfor %}",
       "1,1False 3,2True "},
      {"{{ 'Hello World'[1:7:2] }} {{ '头痛三天'[::-1] }} {{ '头痛'|length }}", "el  天三痛头 2"},
      {"{% set ns = namespace(x=1) %}{% for i in range(3) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}", "4"},
      {"{% set x = 1 %}{% for i in range(3) %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}", "1231"},
      {"{% set x %}a{{ 1 }}b{% endset %}[{{ x }}]", "[a1b]"},
      {"{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages | map(attribute='role') | "
       "join('-') }}",
       "1user-assistant"},
      {"{{ {'a': 1, 'b': [1, none, true, '\"é\\n']} | tojson }}", R"({"a": 1, "b": [1, null, true, "\"é\n"]})"},
      {"{{ 10.0 }} {{ 20 / 2 }} {{ 100000000.0 * 100000000.0 }} {{ 0.00001 }} {{ [100000.0] | tojson }}",
       "10.0 10.0 1e+16 1e-05 [100000.0]"},
      {"{{ '12abc' | int }} {{ '1e3' | int }} {{ ' 12 ' | int }} {{ 'x' | int(-1) }} {{ 'x' | int(default=5) }}",
       "0 1000 12 -1 5"},
      {"{{ '0x1A' | float }} {{ '2.5' | float }} {{ 'x' | float(2.5) }}", "0.0 2.5 2.5"},
      {"{{ [{'f': {'n': 'x'}}, {'f': {'n': 'y'}}] | join(',', attribute='f.n') }}", "x,y"},
      {"{% raw %}\nX{% endraw %}\nY", "\nXY"},
      {"{{ nothing }}|{{ nothing is defined }}|{{ nothing | default('d') }}|{{ tools is none }}", "|False|d|True"},
      {"{{ 'a</t>\n\nb'.split('</t>')[-1].lstrip('\n') }} {{ 'abc'.startswith(('x', 'a')) }}", "b True"},
      {"{{ 1 < 2 < 3 }} {{ 'a' in 'abc' }} {{ 2 not in [1] }} {{ 'y' if messages else 'n' }}{{ 'x' if false }}",
       "True True True y"},
      {"{% raw %}{{ x }}{% endraw %}{% generation %}g{% endgeneration %}", "{{ x }}g"},
      {"{% if strftime_now is defined %}today{% else %}a fixed day{% endif %}", "a fixed day"},
  };
  for (const auto& [text, expected] : cases) {
    EXPECT_EQ(rendered(text), expected) << text;
  }
}

TEST(ChatTemplate, WhatIsNotSupportedIsNamedAtOnce) {
  const std::pair<const char*, const char*> cases[] = {{"\n{% include 'x' %}", "line 2: the tag 'include'"},
                                                       {"{% macro f() %}{% endmacro %}", "'macro'"},
                                                       {"{{ 'a' | nofilter }}", "'nofilter'"},
                                                       {"{{ 1 is notest }}", "'notest'"},
                                                       {"{{ open('/etc/passwd') }}", "open()"},
                                                       {"{{ messages.append(1) }}", ".append()"},
                                                       {"{{ ''.__class__() }}", ".__class__()"},
                                                       {"{% import 'x' as y %}", "'import'"},
                                                       {"{% for i in x recursive %}{% endfor %}", "recursive"},
                                                       {"{% if true %}", "endif"},
                                                       {"{% endfor %}", "endfor"},
                                                       {"{{ 'a' }", "'}'"},
                                                       {"{{ 'a", "string"},
                                                       {"{% break %}", "break"}};
  for (const auto& [text, name] : cases) {
    EXPECT_THROW(ChatTemplate(text, "test"), Error) << text;
    EXPECT_NE(problem(text).find(name), std::string::npos) << text << ": " << problem(text);
  }
}

TEST(ChatTemplate, ErrorsOfATemplateAreErrors) {
  EXPECT_NE(problem("{{ raise_exception('roles must alternate') }}").find("roles must alternate"), std::string::npos);
  EXPECT_NE(problem("\n\n{{ nothing.x.y }}").find("line 3"), std::string::npos);
  EXPECT_NE(problem("{{ 1 + 'a' }}").find("'+'"), std::string::npos);
  EXPECT_NE(problem("{{ strftime_now('%d') }}").find("date"), std::string::npos);
  EXPECT_FALSE(problem("{{ 1 // 0 }}").empty());
  EXPECT_FALSE(problem("{{ 9223372036854775807 }}").empty());
}

TEST(ChatTemplate, EndsInBoundedTimeAndMemory) {
  const std::string loops =
      "{% for a in range(90000) %}{% for b in range(90000) %}{% for c in range(90000) %}x{% endfor %}{% endfor %}{% "
      "endfor %}";
  for (const std::string& text : {loops, std::string("{{ 'a' * 10000000000 }}"), std::string("{{ range(10000000) }}"),
                                  std::string("{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(99) %}{% set "
                                              "ns.x = ns.x + ns.x %}{% endfor %}")}) {
    EXPECT_FALSE(problem(text).empty()) << text.substr(0, 60);
  }
  std::string deep;
  for (int i = 0; i < 5000; ++i) deep += '(';
  EXPECT_THROW(ChatTemplate("{{ " + deep, "test"), Error);
  std::string blocks, nots = "{{ ";
  for (int i = 0; i < 5000; ++i) {
    blocks += "{% if true %}";
    nots += "not ";
  }
  EXPECT_THROW(ChatTemplate(blocks, "test"), Error);
  EXPECT_THROW(ChatTemplate(nots + "1 }}", "test"), Error);
}

}  // namespace
}  // namespace moelora::model
