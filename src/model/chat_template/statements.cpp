#include <algorithm>
#include <set>

#include "model/chat_template/expressions.h"
#include "moelora/io/error.h"
#include "moelora/io/utf8.h"

namespace moelora::model::jinja {
namespace {

constexpr int kDeepestBlock = 60;  // blocks in each other

struct Text : Statement {
  std::string text;
  Flow run(Run& run) const override {
    run.write(text);
    return Flow::on;
  }
};

struct Print : Statement {
  Node expression;
  Flow run(Run& run) const override {
    run.line = line;
    run.write(text_of(expression->run(run)));
    return Flow::on;
  }
};

struct If : Statement {
  std::vector<std::pair<Node, Block>> branches;
  Block otherwise;
  Flow run(Run& run) const override {
    run.line = line;
    for (const auto& [condition, block] : branches) {
      if (is_true(condition->run(run))) return run_all(block, run);
    }
    return run_all(otherwise, run);
  }
};

struct Set : Statement {
  std::string name, attribute;  // the attribute of a namespace, or empty
  Node expression;              // absent: the text of the block
  Block block;
  Flow run(Run& run) const override {
    run.line = line;
    Value made;
    if (expression) {
      made = expression->run(run);
    } else {
      std::string before;
      std::swap(before, run.output);
      run.scopes.emplace_back();
      const Flow flow = run_all(block, run);
      run.scopes.pop_back();
      std::swap(before, run.output);
      made = value(std::move(before));
      if (flow != Flow::on) return flow;
    }
    if (attribute.empty()) {
      run.scopes.back()[name] = std::move(made);
      return Flow::on;
    }
    for (auto scope = run.scopes.rbegin(); scope != run.scopes.rend(); ++scope) {
      const auto found = scope->find(name);
      if (found == scope->end()) continue;
      if (found->second == nullptr || !found->second->is_object()) break;
      Json changed = *found->second;
      for (const auto& entry : changed.items())
        run.spend(64 + (entry.value().is_string() ? entry.value().get_ref<const std::string&>().size() : 256));
      changed[attribute] = made == nullptr ? Json() : *made;
      found->second = value(std::move(changed));
      return Flow::on;
    }
    run.fail("set " + name + "." + attribute + ", but " + name + " is no namespace");
  }
};

struct For : Statement {
  std::vector<std::string> names;
  Node list, condition;
  Block block, otherwise;

  Flow run(Run& run) const override {
    run.line = line;
    std::vector<Value> items = items_of(list->run(run), run);
    run.scopes.emplace_back();
    if (condition) {
      std::erase_if(items, [&](const Value& item) {
        bind(item, run);
        return !is_true(condition->run(run));
      });
    }
    Flow flow = Flow::on;
    for (std::size_t i = 0; i < items.size() && flow != Flow::stop; ++i) {
      run.spend(256);
      run.scopes.back().clear();
      bind(items[i], run);
      run.scopes.back()["loop"] = state(items, i);
      flow = run_all(block, run);
    }
    run.scopes.pop_back();
    return items.empty() ? run_all(otherwise, run) : Flow::on;
  }

 private:
  void bind(const Value& item, Run& run) const {
    if (names.size() == 1) {
      run.scopes.back()[names[0]] = item;
      return;
    }
    if (item == nullptr || !item->is_array() || item->size() != names.size()) {
      run.fail(detail::concat("a loop over ", names.size(), " names found ", type_of(item)));
    }
    for (std::size_t i = 0; i < names.size(); ++i) run.scopes.back()[names[i]] = part_of(item, item->at(i));
  }

  static Value state(const std::vector<Value>& items, std::size_t i) {
    Json loop{{"index", i + 1},
              {"index0", i},
              {"revindex", items.size() - i},
              {"revindex0", items.size() - i - 1},
              {"first", i == 0},
              {"last", i + 1 == items.size()},
              {"length", items.size()}};
    if (i > 0 && items[i - 1] != nullptr) loop["previtem"] = *items[i - 1];
    if (i + 1 < items.size() && items[i + 1] != nullptr) loop["nextitem"] = *items[i + 1];
    return value(std::move(loop));
  }
};

struct Jump : Statement {
  Flow flow = Flow::next;
  Flow run(Run&) const override { return flow; }
};

/// {% generation %}: marks an answer for others; its variables are its own.
struct Marked : Statement {
  Block block;
  Flow run(Run& run) const override {
    run.scopes.emplace_back();
    const Flow flow = run_all(block, run);
    run.scopes.pop_back();
    return flow;
  }
};

class Parser {
 public:
  Parser(std::string_view source, const std::string& where) : where_(where), parts_(lex(source, where)) {}

  Block run() {
    Block block = statements({});
    if (at_ < parts_.size()) {
      Reader reader(parts_[at_], where_);
      reader.fail("{% " + reader.word().text + " %}, which ends nothing");
    }
    return block;
  }

 private:
  /// Up to a tag with one of these names, which is left to the caller, or the template's end.
  Block statements(const std::set<std::string>& ends) {
    Block block;
    if (++depth_ > kDeepestBlock)
      Reader(parts_[std::min(at_, parts_.size() - 1)], where_).fail("more than 60 blocks in each other");
    for (; at_ < parts_.size();) {
      const Part& part = parts_[at_];
      if (part.kind == Part::Kind::text) {
        auto text = std::make_unique<Text>();
        text->text = part.text;
        block.push_back(std::move(text));
        ++at_;
        continue;
      }
      Reader reader(part, where_);
      if (part.kind == Part::Kind::expression) {
        auto print = std::make_unique<Print>();
        print->expression = reader.list_or_expression();
        reader.expect_end();
        print->line = part.line;
        block.push_back(std::move(print));
        ++at_;
        continue;
      }
      const std::string name = reader.word().text;
      if (ends.contains(name) || name.starts_with("end") || name == "else" || name == "elif") break;
      ++at_;
      reader.name();
      std::unique_ptr<Statement> one = tag(name, reader, part);
      one->line = part.line;
      block.push_back(std::move(one));
    }
    --depth_;
    return block;
  }

  std::unique_ptr<Statement> tag(const std::string& name, Reader& reader, const Part& part) {
    if (name == "if") return condition(reader, part);
    if (name == "for") return loop(reader, part);
    if (name == "set") return assignment(reader, part);
    if (name == "break" || name == "continue") {
      if (loops_ == 0) reader.fail("{% " + name + " %} outside of a loop");
      reader.expect_end();
      auto jump = std::make_unique<Jump>();
      jump->flow = name == "break" ? Flow::stop : Flow::next;
      return jump;
    }
    if (name == "generation") {
      reader.expect_end();
      auto marked = std::make_unique<Marked>();
      marked->block = statements({"endgeneration"});
      expect_tag("endgeneration", part);
      return marked;
    }
    reader.fail("the tag '" + io::shortened(name, 40) + "', which is not supported");
  }

  void expect_tag(const std::string& name, const Part& opening) {
    if (at_ >= parts_.size() || parts_[at_].words.front().text != name) {
      Reader(opening, where_).fail("a block without its {% " + name + " %}");
    }
    Reader reader(parts_[at_++], where_);
    reader.name();
    reader.expect_end();
  }

  std::unique_ptr<Statement> condition(Reader& first, const Part& part) {
    auto made = std::make_unique<If>();
    Node asked = first.list_or_expression();
    first.expect_end();
    while (true) {
      made->branches.emplace_back(std::move(asked), statements({}));
      if (at_ >= parts_.size() || parts_[at_].words.front().text != "elif") break;
      Reader reader(parts_[at_++], where_);
      reader.name();
      asked = reader.list_or_expression();
      reader.expect_end();
    }
    if (at_ < parts_.size() && parts_[at_].words.front().text == "else") {
      expect_tag("else", part);
      made->otherwise = statements({});
    }
    expect_tag("endif", part);
    return made;
  }

  std::unique_ptr<Statement> loop(Reader& reader, const Part& part) {
    auto made = std::make_unique<For>();
    const bool bracket = reader.skip_if("(");
    do {
      made->names.push_back(reader.name());
    } while (reader.skip_if(","));
    if (bracket) reader.expect(")");
    reader.expect("in");
    made->list = reader.without_condition();
    if (reader.skip_if("if")) made->condition = reader.expression();
    reader.expect_end();  // refuses `recursive`
    ++loops_;
    made->block = statements({});
    --loops_;
    if (at_ < parts_.size() && parts_[at_].words.front().text == "else") {
      expect_tag("else", part);
      made->otherwise = statements({});
    }
    expect_tag("endfor", part);
    return made;
  }

  std::unique_ptr<Statement> assignment(Reader& reader, const Part& part) {
    auto made = std::make_unique<Set>();
    made->name = reader.name();
    if (reader.skip_if(".")) made->attribute = reader.name();
    if (reader.skip_if("=")) {
      made->expression = reader.list_or_expression();
      reader.expect_end();
      return made;
    }
    reader.expect_end();
    made->block = statements({});
    expect_tag("endset", part);
    return made;
  }

  const std::string& where_;
  std::vector<Part> parts_;
  std::size_t at_ = 0;
  int depth_ = 0, loops_ = 0;
};

}  // namespace

void Run::fail(const std::string& what) const { throw Error(detail::concat(where_, ", line ", line, ": ", what)); }

Value Run::find(const std::string& name) const {
  for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope) {
    if (const auto found = scope->find(name); found != scope->end()) return found->second;
  }
  return nullptr;
}

void Run::spend(std::size_t bytes) {
  if (bytes > bytes_left_) fail("the template takes more time or memory than any sensible one would");
  bytes_left_ -= bytes;
}

Value Run::text(std::string text) {
  spend(64 + text.size());
  return value(std::move(text));
}

void Run::write(const std::string& text) {
  spend(16 + text.size());
  output += text;
}

Flow run_all(const Block& block, Run& run) {
  for (const auto& statement : block) {
    run.step();
    if (const Flow flow = statement->run(run); flow != Flow::on) return flow;
  }
  return Flow::on;
}

Block parse(std::string_view source, const std::string& where) { return Parser(source, where).run(); }

}  // namespace moelora::model::jinja
