#include "cli/report_html.h"

#include <gmock/gmock.h>

#include <regex>

#include "base/json.h"

namespace wideep::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

eplb::Statistics statistics_of(int num_layers, int num_experts, int num_ranks) {
  eplb::Statistics statistics{.num_experts = num_experts,
                              .top_k = 8,
                              .num_ranks = num_ranks,
                              .iter_start = 100,
                              .iter_stop = 102,
                              .layers = {},
                              .tokens = {}};
  for (int layer = 0; layer < num_layers; ++layer) statistics.layers.push_back(layer + 3);
  for (int i = 0; i < 2 * num_layers * num_experts; ++i) {
    statistics.tokens.push_back(1 + i * 7919 % 12345);
  }
  return statistics;
}

eplb::Plan plan_of(const eplb::Statistics& statistics, int num_slots) {
  eplb::Plan plan{.num_experts = statistics.num_experts,
                  .num_slots = num_slots,
                  .layers = statistics.layers,
                  .slots = {}};
  for (int layer = 0; layer < plan.num_layers(); ++layer) {
    for (int slot = 0; slot < num_slots; ++slot) plan.slots.push_back(slot % plan.num_experts);
  }
  return plan;
}

std::string projected_page(int num_layers, const ReportSource& source, bool per_expert = false) {
  const eplb::Statistics statistics = statistics_of(num_layers, 256, 32);
  const eplb::Plan plan = plan_of(statistics, 288);
  const auto report =
      eplb::make_load_report(statistics, {.ep_size = 36, .per_expert = per_expert, .plan = &plan});
  return load_report_html(report.value(), source);
}

std::string recorded_page() {
  return load_report_html(eplb::make_load_report(statistics_of(4, 16, 4), {}).value(), {"dir", ""});
}

// What is inside the first element that starts with `open`.
std::string inside(const std::string& page, const std::string& open, const std::string& close) {
  const size_t start = page.find(open);
  EXPECT_NE(start, std::string::npos) << open;
  const size_t from = start + open.size();
  return page.substr(from, page.find(close, from) - from);
}

Json data_of(const std::string& page) {
  return parse_json(inside(page, R"(<script type="application/json" id="data">)", "</script>"),
                    "data")
      .value();
}

// The end of the tag that starts at `from`: the first '>' outside quotes.
size_t tag_end(const std::string& page, size_t from) {
  char quote = 0;
  for (size_t i = from; i < page.size(); ++i) {
    if (quote != 0) {
      if (page[i] == quote) quote = 0;
    } else if (page[i] == '"' || page[i] == '\'') {
      quote = page[i];
    } else if (page[i] == '>') {
      return i;
    }
  }
  return std::string::npos;
}

// Every element that is opened is closed, in order. The contents of script and style are skipped as
// browsers do.
void expect_balanced(const std::string& page) {
  std::vector<std::string> open;
  for (size_t at = page.find('<'); at != std::string::npos; at = page.find('<', at)) {
    const size_t end = tag_end(page, at);
    ASSERT_NE(end, std::string::npos) << page.substr(at, 80);
    const bool closes = page[at + 1] == '/';
    const size_t name_at = at + (closes ? 2 : 1);
    const std::string name = page.substr(name_at, page.find_first_of(" \n>", name_at) - name_at);
    ASSERT_THAT(name, ::testing::MatchesRegex("[a-z][a-z0-9]*|!DOCTYPE")) << page.substr(at, 80);
    if (closes) {
      ASSERT_FALSE(open.empty()) << name;
      ASSERT_EQ(open.back(), name);
      open.pop_back();
    } else if (name != "meta" && name != "!DOCTYPE") {
      open.push_back(name);
    }
    at = end;
    if (!closes && (name == "script" || name == "style")) at = page.find("</" + name + ">", end);
  }
  EXPECT_TRUE(open.empty());
}

TEST(EscapeHtml, LeavesNothingThatEndsTextOrAttributes) {
  EXPECT_EQ(escape_html(R"(<a href="x" id='y'>&amp;)"),
            "&lt;a href=&quot;x&quot; id=&#39;y&#39;&gt;&amp;amp;");
  EXPECT_EQ(escape_html("größe_7"), "größe_7");
}

TEST(LoadReportHtml, IsWellFormed) {
  expect_balanced(projected_page(5, {"expert_statistic", "plan.yaml"}));
  expect_balanced(projected_page(2, {"expert_statistic", "plan.yaml"}, true));
  expect_balanced(recorded_page());
}

TEST(LoadReportHtml, KeepsHostileNamesAsText) {
  const std::string hostile = R"(</title></script><script>alert("1")</script><!--&'x)";
  const std::string page = projected_page(2, {hostile, hostile});
  expect_balanced(page);
  EXPECT_THAT(page, Not(HasSubstr("<script>alert")));
  EXPECT_THAT(page, Not(HasSubstr("<!--")));
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;"));
}

TEST(LoadReportHtml, NeedsNothingFromElsewhere) {
  const std::string page = projected_page(3, {"dir", "plan.yaml"});
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));
  const std::regex loads(R"((src|href)\s*=|@import|url\()");
  EXPECT_FALSE(std::regex_search(page, loads));
  // The only address is the name of SVG's namespace.
  EXPECT_FALSE(std::regex_search(page, std::regex(R"(https?://(?!www\.w3\.org/2000/svg))")));
}

TEST(LoadReportHtml, GivesTheChartsTheNumbersOfTheReport) {
  const eplb::Statistics statistics{.num_experts = 4,
                                    .top_k = 2,
                                    .num_ranks = 2,
                                    .iter_stop = 1,
                                    .layers = {7},
                                    .tokens = {12, 4, 0, 0}};
  const eplb::Plan plan{
      .num_experts = 4, .num_slots = 6, .layers = {7}, .slots = {0, 0, 1, 0, 2, 3}};
  const Json data = data_of(load_report_html(
      eplb::make_load_report(statistics, {.plan = &plan}).value(), {"dir", "plan.yaml"}));
  EXPECT_EQ(data["layers"], Json::array({7}));
  ASSERT_EQ(data["views"].size(), 3u);
  const Json& before = data["views"][0];
  EXPECT_EQ(before["title"], "Before: 2 ranks");
  EXPECT_EQ(before["tokens"], Json::array({16, 0}));
  EXPECT_EQ(before["mean"], Json::array({8}));
  EXPECT_EQ(before["ratio"], Json::array({1}));
  const Json& after = data["views"][1];
  EXPECT_EQ(after["key"], "projected");
  EXPECT_EQ(after["tokens"], Json::array({12, 4}));
  EXPECT_EQ(after["ratio"], Json::array({0.5}));
  EXPECT_EQ(data["views"][2]["ratio"], Json::array({0}));
}

TEST(LoadReportHtml, NamesThePlacesOfThePerExpertView) {
  const Json data = data_of(projected_page(2, {"dir", "plan.yaml"}, true));
  EXPECT_EQ(data["views"][0]["title"], "Before: 256 experts");
  EXPECT_EQ(data["views"][1]["title"], "After: 288 slots");
}

TEST(LoadReportHtml, SaysTheSummaryInWords) {
  const std::string page = projected_page(3, {"run1/expert_statistic", "plan.yaml"});
  EXPECT_THAT(page, AllOf(HasSubstr("run1/expert_statistic"), HasSubstr("plan.yaml"),
                          HasSubstr("2 (100 to 101)"), HasSubstr("32 &times; 8"),
                          HasSubstr("36 &times; 8"), HasSubstr("32 of them redundant")));
  const std::string recorded = recorded_page();
  EXPECT_THAT(recorded, AllOf(HasSubstr("Recorded"), Not(HasSubstr("class=\"best\"")),
                              Not(HasSubstr("class=\"projected\""))));
}

TEST(LoadReportHtml, HasOneTableRowALayerAndTheAverage) {
  const std::string page = recorded_page();
  const std::string body = inside(page, "<tbody>", "</tbody>");
  for (const int layer : {3, 4, 5, 6}) {
    EXPECT_THAT(body, HasSubstr("<th scope=\"row\">" + std::to_string(layer) + "</th>"));
  }
  EXPECT_THAT(inside(page, "<tfoot>", "</tfoot>"), HasSubstr("average"));
}

TEST(LoadReportHtml, StaysSmallAtTheSizeOfDeepSeekR1) {
  EXPECT_LT(projected_page(58, {"dir", "plan.yaml"}).size(), 150'000u);
}

}  // namespace
}  // namespace wideep::cli
