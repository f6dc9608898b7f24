// Without training: the base as it is, and in-context learning (Brown et al., arXiv 2005.14165).

#include "experiment/methods/registry.h"
#include "moelora/data/demonstrations.h"

namespace moelora::experiment {
namespace {

/// Section "in_context": examples in front of the question, no training.
class InContextSettings : public OwnSettings {
 public:
  std::int64_t examples = 3;           ///< Of the same task; fewer where they don't fit.
  std::int64_t max_source_length = 0;  ///< Tokens; 0: data.max_source_length.

  void fields(io::FieldVisitor& visit) override {
    visit.section({"in_context", "Examples in front of the question, no training."}, [&](io::FieldVisitor& section) {
      section({"examples", "of the same task; fewer where they don't fit"}, examples, io::at_least(1));
      section({"max_source_length", "tokens of a prompt with its examples; 0: data.max_source_length"},
              max_source_length);
    });
  }
};

constexpr const char* kNothingTrained = "nothing is trained, so there is nothing to fold";

class BaseMethod : public Method {
 public:
  BaseMethod() : Method("base", "Base", "the frozen model without adapter") {}
  Role role() const override { return Role::base; }
  std::string not_mergeable() const override { return kNothingTrained; }
  Product make(Workbench&) const override { return {}; }
};

class InContext : public Method {
 public:
  InContext(std::string key, std::string title, std::string note, data::DemonstrationOptions::Choice choice)
      : Method(std::move(key), std::move(title), std::move(note)), choice_(choice) {}
  bool has_cost() const override { return false; }
  std::shared_ptr<OwnSettings> own_settings() const override { return std::make_shared<InContextSettings>(); }
  std::string not_mergeable() const override { return kNothingTrained; }
  Product make(Workbench& bench) const override {
    const auto& section = bench.experiment.own.of<InContextSettings>();
    data::DemonstrationOptions options;
    options.count = section.examples;
    options.choice = choice_;
    options.seed = bench.seed;
    options.max_source_length =
        section.max_source_length > 0 ? section.max_source_length : bench.config.data.encode.max_source_length;
    options.source_prefix = bench.config.data.encode.source_prefix;
    Product product;
    product.max_source_length = options.max_source_length;
    const auto pool = std::make_shared<data::DemonstrationPool>(bench.train);
    const auto tokenizer = bench.base.tokenizer;
    product.prompt = [pool, tokenizer, options](const data::Record& record) {
      return pool->with_demonstrations(record, *tokenizer, options);
    };
    product.details["examples"] = options.count;
    return product;
  }

 private:
  data::DemonstrationOptions::Choice choice_;
};

}  // namespace

std::vector<MethodPtr> base_methods() {
  return {std::make_shared<BaseMethod>(),
          std::make_shared<InContext>("in-context-random", "In-context, random",
                                      "examples of the same task before the question, drawn at random",
                                      data::DemonstrationOptions::Choice::random),
          std::make_shared<InContext>("in-context-similar", "In-context, similar",
                                      "the same, the most similar ones of the training part",
                                      data::DemonstrationOptions::Choice::similar)};
}

}  // namespace moelora::experiment
