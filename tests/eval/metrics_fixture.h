#pragma once
// Where the evaluation tests find the reference's numbers, and short ways to make records.

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "moelora/data/record.h"
#include "support/shared.h"

namespace moelora::testing {

/// Records and expected numbers of MOELoRA-peft's evaluation. Real records: they are not part of the repository.
inline std::filesystem::path metrics_fixture() { return shared() / "fixtures" / "promptcblue-metrics"; }

inline data::Record make_record(std::string task, std::string target, std::vector<std::string> choices = {},
                                std::string sample_id = "") {
  data::Record record;
  record.input = "问题";
  record.task = std::move(task);
  record.target = std::move(target);
  record.answer_choices = std::move(choices);
  record.sample_id = std::move(sample_id);
  return record;
}

}  // namespace moelora::testing

#define MOELORA_SKIP_WITHOUT_METRICS_FIXTURE()                                             \
  do {                                                                                     \
    if (!std::filesystem::exists(::moelora::testing::metrics_fixture() / "dev.json")) {    \
      GTEST_SKIP() << "the shared fixtures promptcblue-metrics (real records) are absent"; \
    }                                                                                      \
  } while (false)
