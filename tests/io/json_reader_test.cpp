#include "moelora/io/json_reader.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "moelora/io/error.h"

namespace moelora::io {
namespace {

std::string problems_of(const JsonReader& reader) {
  try {
    reader.finish();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

TEST(JsonReader, FillsTypedFieldsAndKeepsDefaultsOfAbsentKeys) {
  JsonReader reader(nlohmann::ordered_json::parse(R"({"a": 3, "b": 0.5, "c": true, "d": "x", "e": ["p", "q"], "f": 7,
                                                     "g": 8e3, "h": {"deep": [1, null]}, "i": "two"})"));
  std::int64_t a = 0;
  std::int64_t g = 0;
  std::int64_t absent = 42;
  double b = 0;
  bool c = false;
  std::string d;
  std::vector<std::string> e;
  std::uint64_t f = 0;
  nlohmann::ordered_json h;
  std::size_t i = 0;
  EXPECT_TRUE(reader.read("a", a));
  EXPECT_TRUE(reader.read("b", b));
  EXPECT_TRUE(reader.read("c", c));
  EXPECT_TRUE(reader.read("d", d));
  EXPECT_TRUE(reader.read("e", e));
  EXPECT_TRUE(reader.read("f", f));
  EXPECT_TRUE(reader.read("g", g));
  EXPECT_TRUE(reader.read("h", h));
  EXPECT_TRUE(reader.read_choice("i", {"one", "two"}, i));
  EXPECT_FALSE(reader.read("absent", absent));
  reader.finish();
  EXPECT_EQ(a, 3);
  EXPECT_EQ(b, 0.5);
  EXPECT_TRUE(c);
  EXPECT_EQ(d, "x");
  EXPECT_EQ(e, (std::vector<std::string>{"p", "q"}));
  EXPECT_EQ(f, 7u);
  EXPECT_EQ(g, 8000);
  EXPECT_EQ(h["deep"].size(), 2u);
  EXPECT_EQ(i, 1u);
  EXPECT_EQ(absent, 42);
}

TEST(JsonReader, ListsEveryProblemOfAllLevelsInOneError) {
  JsonReader reader(
      nlohmann::ordered_json::parse(
          R"({"steps": "ten", "seed": -1, "half": 1.5, "training": {"learning_rat": 1}, "kind": "odd", "sub": 4})"),
      "");
  std::int64_t steps = 5;
  std::int64_t half = 0;
  std::uint64_t seed = 9;
  double rate = 0.25;
  std::size_t kind = 0;
  reader.read("steps", steps);
  reader.read("seed", seed);
  reader.read("half", half);
  reader.read_choice("kind", {"even", "prime"}, kind);
  JsonReader training = reader.child("training");
  training.read("learning_rate", rate);
  training.problem("learning_rate", "expected more than 0, found 0");
  JsonReader sub = reader.child("sub");
  const std::string text = problems_of(reader);
  for (const char* part :
       {"steps: expected an integer, found \"ten\"", "seed: expected an integer of at least 0, found -1",
        "half: expected an integer, found 1.5", "kind: expected one of even, prime, found \"odd\"",
        "training.learning_rat: unknown key, did you mean \"learning_rate\"?", "training.learning_rate: expected more",
        "sub: expected an object, found number"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\nin\n" << text;
  }
  EXPECT_EQ(steps, 5);
  EXPECT_EQ(seed, 9u);
  EXPECT_EQ(rate, 0.25);
}

TEST(JsonReader, AnUnknownKeyFarFromAllIsAnsweredWithTheKnownOnes) {
  JsonReader reader(nlohmann::ordered_json::parse(R"({"zzzzzzzz": 1})"), "adapter");
  std::int64_t rank = 0;
  double alpha = 0;
  reader.read("rank", rank);
  reader.read("alpha", alpha);
  EXPECT_EQ(problems_of(reader), "adapter.zzzzzzzz: unknown key; known: rank, alpha");
}

TEST(JsonReader, SomethingThatIsNoObjectIsNamed) {
  EXPECT_EQ(problems_of(JsonReader(nlohmann::ordered_json::parse("[1]"), "model")),
            "model: expected an object, found array");
  EXPECT_EQ(problems_of(JsonReader(nlohmann::ordered_json(), "model")), "");
}

TEST(NearestName, FindsTyposAndIgnoresStrangers) {
  const std::vector<std::string> known{"learning_rate", "batch_size", "CMeIE", "MedDG"};
  EXPECT_EQ(nearest_name("learningrate", known), "learning_rate");
  EXPECT_EQ(nearest_name("btach_size", known), "batch_size");
  EXPECT_EQ(nearest_name("cmeie", known), "CMeIE");
  EXPECT_EQ(nearest_name("MedDJ", known), "MedDG");
  EXPECT_EQ(nearest_name("KUAKE-QIC", known), "");
  EXPECT_EQ(nearest_name("", known), "");
}

}  // namespace
}  // namespace moelora::io
