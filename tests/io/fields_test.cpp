#include "moelora/io/fields.h"

#include <gtest/gtest.h>

#include <limits>

#include "io/raises.h"
#include "moelora/io/field_visitors.h"

namespace moelora::io {
namespace {

using nlohmann::ordered_json;

enum class Taste { sweet, sour };

struct Toy {
  std::int64_t height = 3;
  double weight = 0.5;
  Taste taste = Taste::sweet;
  std::string label;
  std::string maker;
  std::vector<std::uint64_t> seeds{1};
  std::vector<double> sizes;
  bool round = true;
};

void fields(FieldVisitor& visit, Toy& toy) {
  visit({.key = "height",
         .meaning = "of the toy\nin blocks",
         .on_resume = OnResume::learned,
         .other_names = {{"size", nullptr}, {"width", "a toy has a height alone"}}},
        toy.height, at_least(1), at_most(10));
  visit({"weight", "share of the box", OnResume::free}, toy.weight, fraction);
  visit.choice({"taste", "sweet or sour"}, {"sweet", "sour"}, toy.taste);
  visit({.key = "label", .meaning = "may be null", .accepts_null = true, .empty_is_null = true}, toy.label);
  visit.section({"box", "what it lies in"}, [&](FieldVisitor& box) {
    box({.key = "maker", .meaning = "of the box", .written = !toy.maker.empty(), .example = "\"us\""}, toy.maker);
    box({"seeds", "of its pattern"}, toy.seeds, distinct<std::uint64_t>);
    box({"sizes", "of it"}, toy.sizes);
    box({"round", "or square"}, toy.round);
  });
}

FieldList toy_fields() {
  FieldList list;
  Toy toy;
  fields(list, toy);
  return list;
}

Toy read(const ordered_json& json) {
  const FieldList list = toy_fields();
  Toy toy;
  JsonReader reader(json);
  FieldReader visitor(reader, &list);
  fields(visitor, toy);
  reader.finish();
  return toy;
}

ordered_json written(Toy toy) {
  FieldWriter writer;
  fields(writer, toy);
  return writer.take();
}

TEST(Fields, AreReadAndWrittenInTheirOrder) {
  const auto json = ordered_json::parse(
      R"({"height": 7, "weight": 0.25, "taste": "sour", "label": "x",
          "box": {"maker": "m", "seeds": [4, 5], "sizes": [1.5], "round": false}})");
  EXPECT_EQ(written(read(json)).dump(), json.dump());
  EXPECT_EQ(written(Toy{}).dump(), R"({"height":3,"weight":0.5,"taste":"sweet","label":null,)"
                                   R"("box":{"seeds":[1],"sizes":[],"round":true}})");
  EXPECT_EQ(written(read(written(Toy{}))).dump(), written(Toy{}).dump());
}

TEST(Fields, WhatDoesNotFitIsNamedWithItsSections) {
  for (const auto& [json, problem] : std::vector<std::pair<const char*, const char*>>{
           {R"({"height": "tall"})", "height: expected an integer, found \"tall\""},
           {R"({"height": 0})", "height: expected at least 1, found 0"},
           {R"({"height": 11})", "height: expected at most 10, found 11"},
           {R"({"weight": 1.0})", "weight: expected 0 or more and below 1, found 1"},
           {R"({"taste": "bitter"})", "taste: expected one of sweet, sour, found \"bitter\""},
           {R"({"taste": 1})", "taste: expected a string, found 1"},
           {R"({"heigth": 1})", "heigth: unknown key, did you mean \"height\"?"},
           {R"({"size": 1})", "size: unknown key; use height"},
           {R"({"box": {"size": 1}})", "box.size: unknown key; use height"},
           {R"({"width": 1})", "width: unknown key; a toy has a height alone"},
           {R"({"box": 3})", "box: expected an object, found number"},
           {R"({"box": {"seeds": [1, 1]}})", "box.seeds: a value is listed twice"},
           {R"({"box": {"seeds": [-1]}})", "box.seeds: expected numbers of 0 or more"},
           {R"({"box": {"rund": true}})", "box.rund: unknown key, did you mean \"round\"?"}}) {
    EXPECT_TRUE(raises([text = json] { read(ordered_json::parse(text)); }, problem)) << json;
  }
  EXPECT_EQ(read({{"label", nullptr}}).label, "");
}

TEST(Fields, RulesCheckAStructThatWasFilledInCode) {
  Toy toy;
  toy.height = 0;
  toy.weight = std::numeric_limits<double>::quiet_NaN();
  toy.seeds = {2, 2};
  FieldChecker checker;
  fields(checker, toy);
  ASSERT_EQ(checker.problems.size(), 3u);
  EXPECT_EQ(checker.problems[0].first, "height");
  EXPECT_EQ(checker.problems[1].first, "weight");
  EXPECT_EQ(checker.problems[2].first, "box.seeds");
  EXPECT_EQ(checker.problems[2].second, "a value is listed twice");
}

TEST(Fields, AListSaysWhatAKeyMeansAndWhatAnotherValueMeans) {
  const FieldList list = toy_fields();
  ASSERT_NE(list.find("box.seeds"), nullptr);
  EXPECT_EQ(list.find("seeds"), nullptr);
  EXPECT_EQ(list.find("height")->on_resume, OnResume::learned);
  EXPECT_EQ(list.find("weight")->on_resume, OnResume::free);
  EXPECT_EQ(list.find("box.seeds")->on_resume, OnResume::another_run);
  EXPECT_EQ(documented_json(written(Toy{}), list, "// A toy.\n"), R"(// A toy.
{
  // of the toy
  // in blocks
  "height": 3,
  // share of the box
  "weight": 0.5,
  // sweet or sour
  "taste": "sweet",
  // may be null
  "label": null,
  // what it lies in
  "box": {
    // of the box
    // "maker": "us",
    // of its pattern
    "seeds": [1],
    // of it
    "sizes": [],
    // or square
    "round": true
  }
}
)");
}

}  // namespace
}  // namespace moelora::io
