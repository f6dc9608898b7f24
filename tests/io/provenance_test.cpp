#include "moelora/io/provenance.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <regex>

namespace moelora::io {
namespace {

TEST(Provenance, NamesProgramCommandTimeAndLibraries) {
  const nlohmann::ordered_json note = provenance();
  for (const char* key : {"version", "command", "time_utc", "libtorch", "compiler"}) {
    ASSERT_TRUE(note.contains(key)) << key;
    EXPECT_FALSE(note[key].get<std::string>().empty()) << key;
  }
  EXPECT_TRUE(std::regex_match(note["time_utc"].get<std::string>(),
                               std::regex(R"(20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-6]\dZ)")));
  EXPECT_TRUE(std::regex_search(note["libtorch"].get<std::string>(), std::regex(R"(^\d+\.\d+\.\d+)")));
}

TEST(Provenance, TheCommandLineIsThisPrograms) {
  EXPECT_NE(command_line().find("tests"), std::string::npos) << command_line();
}

}  // namespace
}  // namespace moelora::io
