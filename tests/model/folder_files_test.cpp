#include "moelora/model/folder_files.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "moelora/io/json_file.h"
#include "support/shared.h"

namespace moelora::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

void write(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << text;
}

std::vector<std::string> present(const fs::path& folder) {
  std::vector<std::string> names;
  for (const fs::path& file : folder_files(folder).present) {
    names.push_back(file.string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

TEST(FolderFiles, CodeOfAutoMapAndWhatItImportsRelatively) {
  const testing::TemporaryFolder temporary;
  const fs::path& folder = temporary.path();
  io::write_json_file(folder / "config.json", {{"auto_map",
                                                {{"AutoConfig", "configuration_x.XConfig"},
                                                 {"AutoModel", "modeling_x.XModel"},
                                                 {"AutoModelForCausalLM", "someone/else--elsewhere.Model"}}}});
  io::write_json_file(folder / "tokenizer_config.json",
                      {{"auto_map", {{"AutoTokenizer", {"tokenization_x.XTokenizer", nullptr}}}}});
  write(folder / "configuration_x.py", "import torch\nfrom ..above import secret\nfrom transformers import x\n");
  write(folder / "modeling_x.py",
        "from .configuration_x import XConfig\nfrom .layers.block import (\n    Block,\n)\nfrom . import helpers as h, "
        "absent\nfrom . import (\n  more,\n  most)\r\n");
  write(folder / "layers" / "block.py", "    from .norm import Norm\n");
  write(folder / "layers" / "norm.py", "from .block import Block  # each imports the other\n");
  write(folder / "helpers.py", "");
  write(folder / "more.py", "");
  write(folder / "most" / "__init__.py", "");
  write(folder / "tokenization_x.py", "\xff\xfe no text at all");
  write(folder / "unrelated.py", "");
  write(folder.parent_path() / (folder.filename().string() + "-above.py"), "");
  write(folder / "generation_config.json", "{}");
  write(folder / "special_tokens_map.json", "{}");
  write(folder / "added_tokens.json", "{}");
  write(folder / "tokenizer.model", "bytes");
  EXPECT_EQ(present(folder),
            (std::vector<std::string>{"added_tokens.json", "configuration_x.py", "generation_config.json", "helpers.py",
                                      "layers/block.py", "layers/norm.py", "modeling_x.py", "more.py",
                                      "most/__init__.py", "special_tokens_map.json", "tokenization_x.py",
                                      "tokenizer.model", "tokenizer_config.json"}));
  EXPECT_TRUE(folder_files(folder).missing.empty()) << "another repository's code is not missing here";
  const testing::TemporaryFolder copy;
  copy_folder_files(folder, copy.path());
  EXPECT_EQ(io::read_text_file(copy.path() / "tokenization_x.py"), "\xff\xfe no text at all");
  EXPECT_TRUE(fs::exists(copy.path() / "layers" / "norm.py"));
  EXPECT_FALSE(fs::exists(copy.path() / "config.json"));
  fs::remove(folder.parent_path() / (folder.filename().string() + "-above.py"));
}

TEST(FolderFiles, ACopyOfAnotherRepositorysCodeInTheFolderComesAlong) {
  const testing::TemporaryFolder folder;
  io::write_json_file(folder.path() / "config.json", {{"auto_map", {{"AutoModel", "THUDM/chatglm-6b--modeling_x.X"}}}});
  EXPECT_TRUE(present(folder.path()).empty());
  write(folder.path() / "modeling_x.py", "");
  EXPECT_EQ(present(folder.path()), std::vector<std::string>{"modeling_x.py"});
}

TEST(FolderFiles, WhatIsMissingIsNamedWithItsPlace) {
  const testing::TemporaryFolder folder;
  io::write_json_file(folder.path() / "config.json", {{"auto_map", {{"AutoModel", "modeling_x.X"}}}});
  ASSERT_EQ(folder_files(folder.path()).missing.size(), 1U);
  EXPECT_EQ(folder_files(folder.path()).missing.front(), "modeling_x.py (config.json, AutoModel)");
}

TEST(FolderFiles, NoNameLeadsOutOfTheFolder) {
  const testing::TemporaryFolder outer;
  const fs::path folder = outer.path() / "model";
  write(outer.path() / "secret.py", "");
  write(folder / "inside.py", "from .. import secret\nfrom ...secret import x\nfrom ./../secret import y\n");
  for (const char* reference : {"../secret.X", "..secret.X", "/etc/passwd.X", "owner/name--../secret.X", "a/b.X", ".X",
                                "X", "", "..", "inside/../../secret.X"}) {
    io::write_json_file(folder / "config.json", {{"auto_map", {{"AutoModel", reference}}}});
    EXPECT_TRUE(present(folder).empty()) << reference;
    EXPECT_EQ(folder_files(folder).missing.size(), 1U) << reference;
  }
  io::write_json_file(folder / "config.json", {{"auto_map", {{"AutoModel", "inside.X"}, {"AutoConfig", 7}}}});
  EXPECT_EQ(present(folder), std::vector<std::string>{"inside.py"});
}

}  // namespace
}  // namespace moelora::model
