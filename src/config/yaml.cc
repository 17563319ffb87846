#include "config/yaml.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <istream>
#include <span>
#include <streambuf>

#include "base/file.h"

namespace wideep {
namespace {

constexpr uint32_t kMaxColumn = (uint32_t{1} << 29) - 1;

// An istream over memory that is not copied.
class ViewBuffer : public std::streambuf {
 public:
  explicit ViewBuffer(std::string_view text) {
    char* begin = const_cast<char*>(text.data());  // a get area is never written
    setg(begin, begin, begin + text.size());
  }
};

// What yaml-cpp would read wrongly instead of refusing: byte 4 ends its input, and a tab as
// indentation shifts columns.
Status check_bytes(std::string_view text, const std::string& name) {
  int line = 1;
  bool indentation = true;
  for (const char c : text) {
    if (c == '\n') {
      ++line;
      indentation = true;
      continue;
    }
    if (c == '\t' && indentation) {
      return Status::invalid_input(
          fmt::format("{}:{}: a tab as indentation: use spaces", name, line));
    }
    if ((c >= 0 && c < ' ' && c != '\t' && c != '\r') || c == 0x7f) {
      return Status::invalid_input(fmt::format("{}:{}: control character 0x{:02x}: not a text file",
                                               name, line, static_cast<unsigned char>(c)));
    }
    if (c != ' ') indentation = false;
  }
  return Status::ok();
}

// Does the quoted scalar that starts at `begin` end? yaml-cpp takes the end of the input for a
// quote.
bool quote_ends(std::string_view text, size_t begin) {
  const char quote = text[begin];
  for (size_t i = begin + 1; i < text.size(); ++i) {
    const bool escape = quote == '"' ? text[i] == '\\' : text.substr(i, 2) == "''";
    if (escape) {
      ++i;
    } else if (text[i] == quote) {
      return true;
    }
  }
  return false;
}

// A list of plain integers that ends its line, as plans have by the ten thousand.
struct IntegerList {
  size_t position;        // of its '[' in the condensed text
  std::string_view body;  // between the brackets
};

// yaml-cpp spends 1.5 us on a scalar, 0.1 s on a large plan. So lines "words: [1, 2, 3]" reach it
// as "words: []" and the builder puts the integers in where it is told of a list at that position.
struct Condensed {
  std::string text;
  std::vector<IntegerList> lists;
};

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// The integers' places in "1, 2,3"; nullopt where it is anything else, an empty list too.
std::optional<std::vector<std::string_view>> integers_of(std::string_view body) {
  std::vector<std::string_view> items;
  size_t i = 0;
  const auto skip_spaces = [&] {
    while (i < body.size() && body[i] == ' ') ++i;
  };
  for (;;) {
    skip_spaces();
    const size_t begin = i;
    while (i < body.size() && is_digit(body[i])) ++i;
    if (i == begin) return std::nullopt;
    items.push_back(body.substr(begin, i - begin));
    skip_spaces();
    if (i == body.size()) return items;
    if (body[i++] != ',') return std::nullopt;
  }
}

Condensed condense(std::string_view text) {
  Condensed condensed;
  condensed.text.reserve(text.size());
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    const size_t open =
        line.find_first_not_of(" :_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
    const bool is_list = open != std::string_view::npos && line[open] == '[' && line.back() == ']';
    const std::string_view body = is_list ? line.substr(open + 1, line.size() - open - 2) : "";
    if (is_list && integers_of(body)) {
      condensed.lists.push_back({condensed.text.size() + open, body});
      condensed.text.append(line.substr(0, open)).append("[]");
    } else {
      condensed.text += line;
    }
    if (end < text.size()) condensed.text += '\n';
    begin = end + 1;
  }
  return condensed;
}

}  // namespace

// Builds the records from yaml-cpp's events. What we refuse leaves the library's parser as its own
// exception type, caught where the parser is run: there is no other way to stop it early.
class YamlBuilder : public YAML::EventHandler {
 public:
  // The text that yaml-cpp reads, and the lists that were taken out of it.
  YamlBuilder(std::string_view input, std::span<const IntegerList> lists)
      : input_(input), lists_(lists) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) refuse(mark, "a second document: one is read");
  }
  void OnDocumentEnd() override {}
  void OnAnchor(const YAML::Mark& mark, const std::string& name) override {
    refuse(mark, fmt::format("anchor \"&{}\": anchors and aliases are not read", name));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    refuse(mark, "alias: anchors and aliases are not read");
  }
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override {
    if (takes_key()) refuse(mark, "a key without a name");
    add(mark, YamlKind::kNull);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                const std::string& value) override {
    // yaml-cpp's tags: "?" plain, "!" quoted, else one that was written.
    if (tag != "?" && tag != "!" && !tag.empty()) refuse(mark, "a tag: tags are not read");
    if (tag == "!") check_quotes(mark);
    add_scalar(mark, value).quoted = tag == "!";
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, YamlKind::kList);
    if (!lists_.empty() && lists_.front().position == static_cast<size_t>(mark.pos)) {
      add_integers(mark, lists_.front().body);
      lists_ = lists_.subspan(1);
    }
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, YamlKind::kMap);
  }
  void OnMapEnd() override {
    refuse_duplicates(open_.back());
    close();
  }

  // False where a line that looked like a list was part of something else: a text over many lines.
  bool used_all_lists() const { return lists_.empty(); }

  YamlDocument take() {
    if (document_.records_.empty()) add(YAML::Mark{}, YamlKind::kNull);
    return std::move(document_);
  }

 private:
  [[noreturn]] static void refuse(const YAML::Mark& mark, const std::string& what) {
    throw YAML::ParserException(mark, what);
  }

  void check_quotes(const YAML::Mark& mark) const {
    const auto begin = static_cast<size_t>(mark.pos);
    if (begin >= input_.size()) return;
    if (input_[begin] == '!') refuse(mark, "a tag: tags are not read");
    const bool is_quote = input_[begin] == '"' || input_[begin] == '\'';
    if (is_quote && !quote_ends(input_, begin)) refuse(mark, "a quote that is not closed");
  }

  bool takes_key() const {
    if (open_.empty()) return false;
    const YamlDocument::Record& parent = document_.records_[open_.back()];
    return parent.kind == static_cast<uint32_t>(YamlKind::kMap) && parent.size % 2 == 0;
  }

  // While a map is open, its size counts keys and values.
  YamlDocument::Record& add(const YAML::Mark& mark, YamlKind kind) {
    auto& records = document_.records_;
    if (static_cast<int64_t>(records.size()) >= kYamlMaxNodes) {
      refuse(mark, fmt::format("more than {} values", kYamlMaxNodes));
    }
    if (!open_.empty()) ++records[open_.back()].size;
    const auto index = static_cast<uint32_t>(records.size());
    records.push_back({.line = static_cast<uint32_t>(mark.line) + 1,
                       .column = std::min(static_cast<uint32_t>(mark.column) + 1, kMaxColumn),
                       .kind = static_cast<uint32_t>(kind),
                       .quoted = 0,
                       .end = index + 1,
                       .text_begin = 0,
                       .size = 0});
    return records.back();
  }

  YamlDocument::Record& add_scalar(const YAML::Mark& mark, std::string_view value) {
    YamlDocument::Record& record = add(mark, YamlKind::kScalar);
    record.text_begin = static_cast<uint32_t>(document_.text_.size());
    record.size = static_cast<uint32_t>(value.size());
    document_.text_ += value;
    return record;
  }

  void add_integers(const YAML::Mark& list, std::string_view body) {
    const auto items = integers_of(body);
    CHECK(items.has_value());
    YAML::Mark mark = list;
    for (const std::string_view item : *items) {
      mark.column = list.column + 1 + static_cast<int>(item.data() - body.data());
      add_scalar(mark, item);
    }
  }

  void open(const YAML::Mark& mark, const std::string& tag, YamlKind kind) {
    if (tag != "?" && !tag.empty()) refuse(mark, "a tag: tags are not read");
    if (takes_key()) refuse(mark, "a list or map as key: keys are words or numbers");
    if (open_.size() >= kYamlMaxDepth) {
      refuse(mark, fmt::format("nested more than {} deep", kYamlMaxDepth));
    }
    add(mark, kind);
    open_.push_back(static_cast<uint32_t>(document_.records_.size() - 1));
  }

  void close() {
    YamlDocument::Record& record = document_.records_[open_.back()];
    record.end = static_cast<uint32_t>(document_.records_.size());
    if (record.kind == static_cast<uint32_t>(YamlKind::kMap)) record.size /= 2;
    open_.pop_back();
  }

  // O(n log n) over the keys of one map.
  void refuse_duplicates(uint32_t map) {
    const auto& records = document_.records_;
    keys_.clear();
    for (uint32_t key = map + 1; key < records.size(); key = records[key + 1].end) {
      keys_.push_back(key);
    }
    const auto text = [&](uint32_t i) {
      return std::string_view(document_.text_).substr(records[i].text_begin, records[i].size);
    };
    std::stable_sort(keys_.begin(), keys_.end(),
                     [&](uint32_t a, uint32_t b) { return text(a) < text(b); });
    const auto twice = std::adjacent_find(
        keys_.begin(), keys_.end(), [&](uint32_t a, uint32_t b) { return text(a) == text(b); });
    if (twice == keys_.end()) return;
    YAML::Mark mark;
    mark.line = static_cast<int>(records[twice[1]].line) - 1;
    refuse(mark,
           fmt::format("{}: given twice, first on line {}", text(*twice), records[*twice].line));
  }

  std::string_view input_;
  std::span<const IntegerList> lists_;  // those still to come
  YamlDocument document_;
  std::vector<uint32_t> open_;  // records of the lists and maps around the next event
  std::vector<uint32_t> keys_;  // scratch of refuse_duplicates
  int documents_ = 0;
};

namespace {

void run_parser(std::string_view text, YamlBuilder& builder) {
  ViewBuffer buffer(text);
  std::istream stream(&buffer);
  YAML::Parser parser(stream);
  while (parser.HandleNextDocument(builder)) {
  }
}

}  // namespace

Result<YamlDocument> YamlDocument::parse(std::string_view text, const std::string& name) {
  if (static_cast<int64_t>(text.size()) > kYamlMaxBytes) {
    return Status::invalid_input(fmt::format("{}: {} bytes, more than the {} that are read", name,
                                             text.size(), kYamlMaxBytes));
  }
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // a byte order mark
  RETURN_IF_ERROR(check_bytes(text, name));
  try {
    const Condensed condensed = condense(text);
    YamlBuilder builder(condensed.text, condensed.lists);
    run_parser(condensed.text, builder);
    if (builder.used_all_lists()) return builder.take();
    YamlBuilder plain(text, {});
    run_parser(text, plain);
    return plain.take();
  } catch (const YAML::Exception& error) {
    const int line = error.mark.is_null() ? 1 : error.mark.line + 1;
    return Status::invalid_input(fmt::format("{}:{}: {}", name, line, error.msg));
  } catch (const std::exception& error) {  // a defect of the library must not end a server
    return Status::invalid_input(fmt::format("{}: not valid YAML: {}", name, error.what()));
  }
}

Result<YamlDocument> read_yaml(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, read_file(path, kYamlMaxBytes));
  return YamlDocument::parse(text, path);
}

YamlKind YamlNode::kind() const {
  return static_cast<YamlKind>(document_->records_[index_].kind);
}

int YamlNode::line() const {
  return static_cast<int>(document_->records_[index_].line);
}

int YamlNode::column() const {
  return static_cast<int>(document_->records_[index_].column);
}

std::string_view YamlNode::text() const {
  if (!is_scalar()) return {};
  const auto& record = document_->records_[index_];
  return std::string_view(document_->text_).substr(record.text_begin, record.size);
}

bool YamlNode::quoted() const {
  return document_->records_[index_].quoted != 0;
}

int64_t YamlNode::size() const {
  return is_list() || is_map() ? document_->records_[index_].size : 0;
}

std::vector<YamlNode> YamlNode::items() const {
  CHECK(is_list());
  std::vector<YamlNode> items;
  items.reserve(static_cast<size_t>(size()));
  for (uint32_t i = index_ + 1; i < document_->records_[index_].end;
       i = document_->records_[i].end) {
    items.push_back({document_, i});
  }
  return items;
}

std::vector<YamlNode::Entry> YamlNode::entries() const {
  CHECK(is_map());
  std::vector<Entry> entries;
  entries.reserve(static_cast<size_t>(size()));
  for (uint32_t i = index_ + 1; i < document_->records_[index_].end;
       i = document_->records_[i + 1].end) {
    entries.push_back({{document_, i}, {document_, i + 1}});
  }
  return entries;
}

std::optional<YamlNode> YamlNode::find(std::string_view key) const {
  for (const Entry& entry : entries()) {
    if (entry.key.text() == key) return entry.value;
  }
  return std::nullopt;
}

}  // namespace wideep
