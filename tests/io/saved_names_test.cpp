#include "moelora/io/saved_names.h"

#include <gtest/gtest.h>

namespace moelora::io {
namespace {

TEST(SavedNames, LoseTheirWrappersAndNothingElse) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"transformer.layers.0.mlp.weight", "transformer.layers.0.mlp.weight"},
      {"module.a.weight", "a.weight"},
      {"_orig_mod.module.a.weight", "a.weight"},
      {"module._orig_mod.module.a.weight", "a.weight"},
      {"base_model.model.a.weight", "a.weight"},
      {"base_model.model.base_model.model.a.weight", "a.weight"},
      {"module.base_model.model._orig_mod.a.weight", "a.weight"},
      {"base_model.lora_gate.weight", "lora_gate.weight"},
      {"model.module.a.weight", "a.weight"},
      {"model.base_model.model.a.weight", "a.weight"},
      {"_forward_module.model.module.a.weight", "a.weight"},
      {"a._fsdp_wrapped_module.b._checkpoint_wrapped_module.weight", "a.b.weight"},
      {"model.layers.0.weight", "model.layers.0.weight"},
      {"base_model.model.model.layers.0.weight", "model.layers.0.weight"},
      {"a.module.weight", "a.module.weight"},
      {"submodule.weight", "submodule.weight"},
      {"module", "module"},
      {"base_model.model", "model"},
      {"", ""}};
  for (const auto& [name, expected] : cases) {
    EXPECT_EQ(without_wrappers(name), expected) << name;
  }
}

TEST(SavedNames, ListsAreCutAndNearestNamesStandBeside) {
  const std::vector<std::string> many{"a", "b", "c", "d", "e", "f", "g"};
  EXPECT_EQ(in_a_row(many), "a, b, c, d, e, … (7 in all)");
  EXPECT_EQ(in_a_row({"a", "b"}), "a, b");
  EXPECT_EQ(lines_of("missing", {"a"}), "\n  missing: a");
  EXPECT_NE(lines_of("missing", many).find("and 2 more, 7 in all"), std::string::npos);
  EXPECT_EQ(expected_beside_found({"layers.1.dense.weight"},
                                  {"encoder.layers.0.dense.weight", "encoder.layers.1.dense.weight"}),
            "\n  expected layers.1.dense.weight, found encoder.layers.1.dense.weight");
  EXPECT_EQ(found_beside_expected({"dens"}, {"up", "dense"}), "\n  found dens, expected dense");
  EXPECT_EQ(expected_beside_found({"a"}, {}), "");
}

}  // namespace
}  // namespace moelora::io
