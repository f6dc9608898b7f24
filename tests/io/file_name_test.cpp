#include "moelora/io/file_name.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>
#include <vector>

namespace moelora::io {
namespace {

TEST(FileName, LeavesSafeAndShortNamesAlone) {
  for (const char* name : {"MedDG", "IMCS-V2-MRG", "rare 07", "医疗问答", "a.b_c", "x~y", "(one)", "a..b"}) {
    EXPECT_EQ(file_name_for(name), name);
  }
}

TEST(FileName, IsNeverAPathNorHiddenNorEmpty) {
  const std::vector<std::string> names = {"",     ".",         "..",    "../escaped", "/etc/passwd",
                                          "a/b",  "a\\b",      "..\\b", "C:x",        "a\nb",
                                          "a\tb", " a",        "a ",    "a.",         std::string("a\0b", 3),
                                          "-rf",  ".git",      "a%2Fb", "a?b*",       "\x7f",
                                          "%",    "a/../../b", "a/./b", "//",         "...",
                                          "-",    " ",         "a/",    "\x01",       "\"|<>"};
  std::set<std::string> made;
  const std::filesystem::path folder = "/out/merged";
  for (const std::string& name : names) {
    const std::string file = file_name_for(name);
    EXPECT_FALSE(file.empty()) << name;
    EXPECT_EQ(file.find_first_of(std::string("/\\\n\t\0:", 6)), std::string::npos) << file;
    EXPECT_NE(file[0], '.') << file;
    EXPECT_NE(file[0], '-') << file;
    EXPECT_EQ((folder / file).lexically_normal().parent_path(), folder) << file;
    EXPECT_TRUE(made.insert(file).second) << file;
  }
  EXPECT_EQ(file_name_for("../escaped"), "%2E.%2Fescaped");
}

TEST(FileName, DistinctNamesMakeDistinctFilesAlsoWhenTheyAreLong) {
  std::set<std::string> made;
  const std::string beginning(300, 'a');
  for (int i = 0; i < 50; ++i) {
    const std::string file = file_name_for(beginning + std::to_string(i));
    EXPECT_LE(file.size(), 200u);
    EXPECT_TRUE(made.insert(file).second);
  }
  EXPECT_NE(file_name_for(*made.begin()), *made.begin()) << "a name that looks like a shortened one";
  EXPECT_EQ(file_name_for(std::string(200, 'b')), std::string(200, 'b'));
  std::string chinese;
  for (int i = 0; i < 100; ++i) {
    chinese += "医";
  }
  const std::string file = file_name_for(chinese);
  EXPECT_LE(file.size(), 200u);
  EXPECT_EQ(file.substr(0, file.find('%')).size() % 3, 0u) << "cut within a character: " << file;
  const std::string slashes = file_name_for(std::string(100, '/'));
  EXPECT_LE(slashes.size(), 200u);
  EXPECT_EQ(slashes.substr(0, slashes.find("%~")).size() % 3, 0u) << "cut within an escape: " << slashes;
}

}  // namespace
}  // namespace moelora::io
