// The load report as one HTML page that needs nothing else: summary, imbalance ratios, heat maps,
// rank loads of every layer, and the table.
#pragma once

#include <string>
#include <string_view>

#include "eplb/report.h"

namespace wideep::cli {

// Where the numbers come from, as shown on the page.
struct ReportSource {
  std::string statistics;  // path
  std::string plan;        // path; "" without projection
};

// Text for an element or a quoted attribute.
std::string escape_html(std::string_view text);

// Every name is escaped. About 7 bytes a layer, place and view.
std::string load_report_html(const eplb::LoadReport& report, const ReportSource& source);

}  // namespace wideep::cli
