// The loop of `wideep eplb watch`: reads a job's metrics file again and again and shows what
// changed, until the job ends. Time and screen come from the caller.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "base/status.h"
#include "cli/watch_view.h"

namespace wideep::cli {

struct WatchOptions {
  std::string path;
  bool once = false;      // show what is there and end
  bool lines = false;     // a line at every change, for logs; else a view that replaces the last
  double interval = 0.5;  // s between looks at the file
  double timeout = 30;    // s to wait for the file; and for a sign of life from a silent job
  double patience = 5;    // s until a job is called stuck or silent
};

struct WatchEnvironment {
  std::function<double()> now;        // s since 1970
  std::function<void(double)> sleep;  // s
  std::function<int()> screen_rows;   // 0: no end
  // The whole view, or a line. Called when something changed.
  std::function<void(const std::string&)> show;
};

// OK when the job has ended, or after the one look of `once`. kNotFound where the file does not
// appear, kUnavailable where the job stays silent, each after the timeout; what watched_job() says
// of a file that holds something else.
Status watch_job(const WatchOptions& options, const WatchEnvironment& environment);

}  // namespace wideep::cli
