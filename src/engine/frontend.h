// Rank 0's side of an engine: takes requests from the queue, refuses bad ones, gives the others to
// schedulers, and turns generated tokens into events with text.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/orders.h"
#include "engine/request.h"
#include "engine/request_queue.h"
#include "engine/stop_matcher.h"

namespace wideep::engine {

// Turns one answer's tokens into text, a token at a time, whole characters only.
class Detokenizer {
 public:
  virtual ~Detokenizer() = default;
  virtual std::string add(int token) = 0;
  // The end: what is left of an incomplete character.
  virtual std::string finish() = 0;
};

struct FrontendOptions {
  RequestLimits limits;
  std::vector<int> eos_token_ids;
  int num_schedulers = 1;   // attention-DP ranks
  int stream_interval = 1;  // tokens between two events of a request; the first comes at once
  std::function<std::unique_ptr<Detokenizer>()> make_detokenizer = {};  // none: events have no text
};

class Frontend {
 public:
  // The queue outlives the frontend.
  Frontend(RequestQueue& queue, FrontendOptions options);

  // What the ranks are to do before their next iteration. Sleeps until there is something where no
  // request is being answered. Shutdown once the queue is closed and all are answered.
  Orders collect();
  // A token of a request; tokens of requests that have ended are dropped.
  void deliver(const TokenOutput& output);
  // Ends every request, and those that may come, with this error.
  void fail(const Status& status);

  int num_active() const { return static_cast<int>(active_.size()); }

 private:
  struct Active {
    EventHandler handler;
    std::unique_ptr<Detokenizer> detokenizer;
    StopMatcher stops;
    int scheduler = 0;
    int64_t weight = 0;  // tokens of prompt and answer: what it adds to its scheduler's load
    bool shown = false;  // has had an event
    GenerationEvent event = {};  // what has not been shown yet
  };
  using ActiveMap = std::map<RequestId, Active>;
  // What a scheduler has been given and not finished.
  struct Load {
    int requests = 0;
    int64_t tokens = 0;
  };

  void start(RequestQueue::Submission submission, Orders& orders);
  // The least loaded one: fewest requests, then fewest tokens, then the first.
  int choose_scheduler() const;
  // Shows the pending event, with its reason, as the request's last.
  void end(ActiveMap::iterator request, FinishReason reason, Status status = {});

  RequestQueue& queue_;
  FrontendOptions options_;
  ActiveMap active_;
  std::vector<Load> loads_;              // [num_schedulers]
  std::vector<RequestId> stop_matches_;  // the schedulers do not know yet that these have ended
};

}  // namespace wideep::engine
