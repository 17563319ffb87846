#include "cli/text_table.h"

#include <gtest/gtest.h>

namespace wideep::cli {
namespace {

TEST(TextTable, LooksLikeTheLoadStatisticsOfTheDocuments) {
  const std::vector<std::string> labels = {"3", "4", "5", "58", "59", "60", "average"};
  const std::vector<TextColumn> columns = {
      {"mean", std::vector<double>(7, 1024.0)},
      {"std", {187.955200, 202.728516, 209.339981, 570.880676, 341.339447, 381.045471, 491.651199}},
      {"imbalance-ratio", {0.498043, 0.537602, 0.458676, 2.461014, 0.717498, 1.119648, 1.564272}}};
  EXPECT_EQ(text_table(labels, columns),
            "           mean         std  imbalance-ratio\n"
            "3        1024.0  187.955200         0.498043\n"
            "4        1024.0  202.728516         0.537602\n"
            "5        1024.0  209.339981         0.458676\n"
            "58       1024.0  570.880676         2.461014\n"
            "59       1024.0  341.339447         0.717498\n"
            "60       1024.0  381.045471         1.119648\n"
            "average  1024.0  491.651199         1.564272\n");
}

TEST(TextTable, LooksLikeTheBalancedLoadStatisticsOfTheDocuments) {
  const std::vector<std::string> labels = {"3", "60", "average"};
  const std::vector<TextColumn> columns = {{"mean", std::vector<double>(3, 1024.0)},
                                           {"std", {37.612328, 48.408348, 53.976442}},
                                           {"imbalance-ratio", {0.081947, 0.101029, 0.115378}}};
  EXPECT_EQ(text_table(labels, columns),
            "           mean        std  imbalance-ratio\n"
            "3        1024.0  37.612328         0.081947\n"
            "60       1024.0  48.408348         0.101029\n"
            "average  1024.0  53.976442         0.115378\n");
}

TEST(TextTable, DropsOnlyZerosThatAllNumbersOfAColumnEndWith) {
  EXPECT_EQ(text_table({"1", "2"}, {{"a", {0.5, 0.25}}, {"b", {0.0, 0.0}}}),
            "      a    b\n"
            "1  0.50  0.0\n"
            "2  0.25  0.0\n");
}

TEST(TextTable, WritesExponentsWhereDecimalsWouldHideTheNumber) {
  EXPECT_EQ(text_table({"1", "2"}, {{"tiny", {1.5e-7, 2.0}}}),
            "           tiny\n"
            "1  1.500000e-07\n"
            "2  2.000000e+00\n");
  EXPECT_EQ(text_table({"1"}, {{"huge", {1234567.125}}}),
            "          huge\n"
            "1  1234567.125\n");
  EXPECT_EQ(text_table({"1"}, {{"huge", {12345678.125}}}),
            "           huge\n"
            "1  1.234568e+07\n");
  EXPECT_EQ(text_table({"1"}, {{"whole", {2123456789.0}}}),
            "          whole\n"
            "1  2.123457e+09\n");
}

TEST(TextTable, IsOnlyAHeaderWithoutRows) {
  EXPECT_EQ(text_table({}, {{"mean", {}}, {"std", {}}}), "  mean  std\n");
}

}  // namespace
}  // namespace wideep::cli
