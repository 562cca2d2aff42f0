select split_part(labels, '|', 2) as colour,
       count(*) as pieces,
       count(*) filter (where list_sort(genres) = list_sort(string_split(labels, '|'))) as both_labels_right,
       round(avg(p_red), 2) as mean_p_red
from read_parquet('build/clothes/tags/predictions/dt=*/*.parquet')
join read_csv('build/clothes/new/labels.csv', delim = ',') on poster_id = id
group by colour
order by colour;
