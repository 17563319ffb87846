// The fixed parts of the HTML report: its style sheet and the script that draws its charts.
#pragma once

#include <string_view>

namespace wideep::cli {

// Light and dark follow the browser; nothing is loaded from elsewhere.
extern const std::string_view kReportStyle;

// Draws #ratios, #heat and #layers from the JSON in #data (layout: report_html.cc).
extern const std::string_view kReportScript;

}  // namespace wideep::cli
