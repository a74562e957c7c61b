<?php // php suggest.php PHOTO [RIGHT CATEGORY]; TAILORBIRD_URL and TAILORBIRD_TOKEN say where and who
function call(string $path, string $body, string $kind): array {
    $url = getenv('TAILORBIRD_URL') ?: 'http://127.0.0.1:8000';
    $header = ["Content-Type: $kind", 'Authorization: Bearer ' . getenv('TAILORBIRD_TOKEN')];
    $http = ['method' => 'POST', 'header' => $header, 'content' => $body, 'timeout' => 30];
    return json_decode(file_get_contents($url . $path, false, stream_context_create(['http' => $http])), true);
}
$said = call('/v1/predict?top=3', file_get_contents($argv[1]), 'application/octet-stream');
['label' => $label, 'unsure' => $unsure, 'receipt' => $receipt] = $said['results'][0];
echo $unsure ? "not sure: $label?" : $label, "\n";
if (isset($argv[2])) call('/v1/corrections', json_encode(['receipt' => $receipt, 'answer' => $argv[2]]), 'application/json');
