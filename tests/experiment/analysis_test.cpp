#include "experiment/report/analysis.h"

#include <gtest/gtest.h>

#include "experiment/made_up.h"
#include "moelora/experiment/report.h"
#include "moelora/io/error.h"

namespace moelora::experiment {
namespace {

using testing::made_up_results;

TEST(ExperimentAnalysis, WrongShapesAreErrors) {
  Results twice = made_up_results(2, 1, 4, 1);
  twice.methods[1].key = twice.methods[0].key;
  EXPECT_THROW(main_table(twice), Error);
  Results fewer = made_up_results(2, 1, 4, 1);
  fewer.methods[0].runs[0].predictions.pop_back();
  EXPECT_THROW(main_table(fewer), Error);
  Results ragged = made_up_results(2, 2, 4, 1);
  ragged.expert_weights[0].weights[1].pop_back();
  EXPECT_THROW(main_table(ragged), Error);
}

}  // namespace
}  // namespace moelora::experiment
